"""What the test's tasks write to: an append-only list per session, on a server of its own.

It stands where Honcho stands: it keeps every write, knows nothing of leases, and is neither stopped
nor restarted while the broker is. An append is atomic, as a batch of Honcho messages is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import redis

from hermes_tasks.testing.waiting import wait_until

#: Seconds a task waits at a gate before it gives up: longer than any test.
GATE_SECONDS = 60.0


class Journal:
    """The writes of all sessions, and a few signals between tasks and the test."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)

    # -- what was written --------------------------------------------------------------------

    def append(self, session: str, numbers: Iterable[int]) -> None:
        """Write turns of a session, all or none."""
        self.client.rpush(f"log:{session}", *numbers)

    def log(self, session: str) -> list[int]:
        """Everything written for a session, in the order it arrived."""
        return [int(number) for number in self.client.lrange(f"log:{session}", 0, -1)]

    def written(self, sessions: Iterable[str]) -> int:
        """How many writes there were for these sessions."""
        with self.client.pipeline(transaction=False) as pipeline:
            for session in sessions:
                pipeline.llen(f"log:{session}")
            return sum(pipeline.execute())

    # -- signals -----------------------------------------------------------------------------

    def note(self, what: str) -> int:
        """Count an event; its number so far."""
        return int(self.client.incr(f"note:{what}"))

    def noted(self, what: str) -> int:
        """How often an event was counted."""
        return int(self.client.get(f"note:{what}") or 0)

    def wait_at(self, gate: str) -> None:
        """Wait, in a task, until the test opens the gate."""
        self.note(f"at:{gate}")
        deadline = time.monotonic() + GATE_SECONDS
        while not self.client.exists(f"open:{gate}"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened the gate {gate}")
            time.sleep(0.01)

    def wait_for_arrivals(self, gate: str, count: int, timeout: float = 20.0) -> None:
        """Wait, in the test, until so many tasks stand at the gate."""
        wait_until(
            lambda: self.noted(f"at:{gate}") >= count, timeout, f"{count} tasks at the gate {gate}"
        )

    def open(self, gate: str) -> None:
        """Let all tasks through, those to come as well."""
        self.client.set(f"open:{gate}", 1)
