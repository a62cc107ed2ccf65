"""The event loop of a worker: what it has half read survives the loss of a connection."""

from __future__ import annotations

from contextlib import suppress
from inspect import GEN_SUSPENDED, getgeneratorstate, isgenerator
from typing import Any

from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.utils.compat import fileno


class SessionHub(Hub):
    """Kombu's event loop, of which a reset spares what is half read.

    Celery resets the loop when the broker's connection is lost, and then registers the pipes of its
    pool again. A long answer of a pool process comes in pieces. Kombu drops the generator that has
    read the first of them, and Celery takes the middle of the answer for the length of the next
    one, and waits for that many bytes: the task never ends, and its slot is never free again. A
    task that fails because its own connection was lost at that moment gives just such an answer.
    """

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
