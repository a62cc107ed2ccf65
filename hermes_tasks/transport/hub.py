"""The event loop of a worker, which runs for months and through many a lost connection."""

from __future__ import annotations

import heapq
from contextlib import suppress
from inspect import GEN_SUSPENDED, getgeneratorstate, isgenerator
from typing import Any

from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.utils.compat import fileno

#: Timers that an event loop may keep though they were cancelled.
CANCELLED = 1_000


class SessionHub(Hub):
    """Kombu's event loop, of which a reset spares what is half read, and which forgets timers.

    Celery sets a timer for the time limit of every task, and cancels it when the task ends. Kombu
    keeps it until its time would have come: minutes' worth of tasks, hundreds of megabytes.

    Celery resets the loop when the broker's connection is lost, and then registers the pipes of its
    pool again. A long answer of a pool process comes in pieces. Kombu drops the generator that has
    read the first of them, and Celery takes the middle of the answer for the length of the next
    one, and waits for that many bytes: the task never ends, and its slot is never free again. A
    task that fails because its own connection was lost at that moment gives just such an answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most_timers = CANCELLED

    def fire_timers(self, *args: Any, **options: Any) -> Any:
        """Call what is due. Once in a while, those that were cancelled are dropped before."""
        queue = self.timer._queue
        if len(queue) > self._most_timers:
            queue[:] = [timer for timer in queue if not timer.entry.canceled]
            heapq.heapify(queue)
            # Of those that stay few are cancelled soon: not until they have doubled.
            self._most_timers = max(CANCELLED, 2 * len(queue))
        return super().fire_timers(*args, **options)

    def reset(self) -> None:
        """Forget all readers and writers but those that have read a part of something."""
        was_current = get_event_loop() is self
        half_read = {fd: self.readers[fd][0] for fd in self.readers if self._is_half_read(fd)}
        try:
            super().reset()
        finally:
            if was_current:  # Kombu says that there is none any more, but this one goes on
                set_event_loop(self)
            for fd, reader in half_read.items():
                with suppress(OSError, ValueError):  # its process has just ended
                    self.add_reader(fd, reader)

    def add_reader(self, fds: Any, callback: Any, *args: Any) -> None:
        """Read a file with ``callback``, unless somebody has read it in part: that one goes on."""
        if not self._is_half_read(fileno(fds)):
            super().add_reader(fds, callback, *args)

    def _is_half_read(self, fd: int) -> bool:
        """Whether its reader waits for more. One that has all makes room itself, while it runs."""
        reader = (self.readers.get(fd) or (None,))[0]
        return isgenerator(reader) and getgeneratorstate(reader) == GEN_SUSPENDED
