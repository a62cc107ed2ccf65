"""Wait for a condition, never for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None], timeout: float, what: str, *, interval: float = 0.02
) -> T:
    """The first true value of ``condition``, asked for every ``interval`` seconds.

    Args:
        condition: called until it returns something true; its exceptions are not caught.
        timeout: seconds to wait at most.
        what: what is waited for, for the error.
        interval: seconds between two calls.

    Raises:
        TimeoutError: the condition was still false after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(interval)
