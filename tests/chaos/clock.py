"""A wall clock that can be moved from outside the process, and from outside a fork of it."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_OFFSET = struct.Struct("d")


class Clock:
    """The file that says by how much a process's wall clock is wrong.

    Args:
        path: of the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step(0.0)

    def step(self, seconds: float) -> None:
        """Let the clock be wrong by so much."""
        descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.pwrite(descriptor, _OFFSET.pack(seconds), 0)
        finally:
            os.close(descriptor)


def follow(path: str) -> None:
    """Let this process, and those it forks, have the wall clock that a file says.

    Only :func:`time.time` and what is made of it in Python: Celery, Kombu and redis-py ask no
    other. Clocks that do not follow the wall stay as they are.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would be loaded into every process
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    true_time, true_time_ns = time.time, time.time_ns

    def moved() -> float:
        seconds: float = _OFFSET.unpack_from(offset)[0]
        return true_time() + seconds

    def moved_ns() -> int:
        return true_time_ns() + int(_OFFSET.unpack_from(offset)[0] * 1e9)

    time.time, time.time_ns = moved, moved_ns
