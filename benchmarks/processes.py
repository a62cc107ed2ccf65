"""What processes use of the machine, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")


class Cpu:
    """Seconds of CPU time."""

    @staticmethod
    def of(pid: int) -> float:
        """That a process has used, without its children."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @staticmethod
    def of_children(pid: int) -> float:
        """That the living children of a process have used."""
        return sum(Cpu.of(child.pid) for child in psutil.Process(pid).children(recursive=True))


def resident(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process has resident, and its living children together."""
    process = psutil.Process(pid)
    children = process.children(recursive=True)
    return process.memory_info().rss, sum(child.memory_info().rss for child in children)
