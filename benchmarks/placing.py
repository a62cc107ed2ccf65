"""Where client and server run: a round trip on one core is several times cheaper than across two.

A server that runs where its client does is woken without another core being woken up. So whatever
waits for round trips is measured both ways, and a figure says which it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Placement:
    """The cores of client and server.

    Attributes:
        name: as tables have it.
        client: its core.
        server: its core.
    """

    name: str
    client: int
    server: int

    @contextmanager
    def here(self) -> Iterator[None]:
        """Place this thread, and the threads that it starts, as the client."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.client})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def placements() -> tuple[Placement, ...]:
    """On one core, and on two where there are two."""
    first, *others = sorted(os.sched_getaffinity(0))
    same = Placement("one core", first, first)
    return (same, Placement("two cores", first, others[0])) if others else (same,)


def place(pid: int, core: int) -> None:
    """Keep a process, with all of its threads, on a core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended needs no core
            os.sched_setaffinity(int(thread.name), {core})
