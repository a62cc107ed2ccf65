"""Calls into the network that must not keep a person waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 8
"""Calls that may be waited for, or have been given up and not ended yet."""


class TookTooLong(Exception):
    """A call did not end in its time. It goes on by itself, and nobody waits for it."""


class Bounded:
    """Runs calls in threads of their own, and waits for each only so long.

    A call that hangs cannot be ended, only left alone. So that they do not pile up, no more than
    :data:`MOST_AT_ONCE` are begun.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._free = threading.Semaphore(MOST_AT_ONCE)

    def run(self, call: Callable[[], T], timeout: float) -> T:
        """What ``call`` returns or raises, within ``timeout`` seconds.

        Raises:
            TookTooLong: it did not, or too many others have not.
        """
        if not self._free.acquire(blocking=False):
            raise TookTooLong
        pending = _Pending(call, self._free)
        threading.Thread(target=pending.run, name=self._name, daemon=True).start()
        return pending.result(timeout)


class _Pending(Generic[T]):
    def __init__(self, call: Callable[[], T], free: threading.Semaphore) -> None:
        self._call = call
        self._free = free
        self._done = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._free.release()
            self._done.set()

    def result(self, timeout: float) -> T:
        if not self._done.wait(timeout):
            raise TookTooLong
        if self._error is not None:
            raise self._error
        return self._value
