"""Read-your-writes: waiting until the turns of a session are in Honcho."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from hermes_tasks.errors import BrokerUnavailable, Closed, StillSyncing
from hermes_tasks.gateway.link import FAILURES, Link
from hermes_tasks.gateway.publisher import Publisher
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.transport import Progress

POLL_FIRST_SECONDS = 0.005
POLL_LONGEST_SECONDS = 0.1
"""How often Redis is asked how far a session is: soon at first, then less and less."""

POLL_UNAVAILABLE_SECONDS = 0.5
"""The same while Redis does not answer."""


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What turns wait for."""

    waiting: int
    reason: str
    retry_after: float | None = None


class Flush:
    """Waits for the turns of one gateway's sessions. Safe to use from several threads.

    Args:
        spool: where turns are until Redis has them.
        publisher: what takes them there.
        link: a connection of its own, so that nobody waits behind the publisher.
    """

    def __init__(self, spool: Spool, publisher: Publisher, link: Link) -> None:
        self._spool = spool
        self._publisher = publisher
        self._link = link
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def wait(self, session_key: str, timeout: float) -> None:
        """Return once every turn of the session that was accepted before is settled.

        Raises:
            StillSyncing: that took longer than ``timeout`` seconds.
            Closed: the gateway was closed meanwhile.
            OutboxError: the outbox cannot be read.
        """
        begun = time.monotonic()
        while True:
            recalls = self._spool.recalls
            obstacle = self._wait_for_redis(session_key, begun + timeout)
            if obstacle is None:
                obstacle = self._wait_for_honcho(session_key, begun + timeout)
            if obstacle is not None:
                break
            if recalls == self._spool.recalls:
                return
            # Redis had forgotten turns, which are on their way again.
        seconds = time.monotonic() - begun
        turns = "1 turn waits" if obstacle.waiting == 1 else f"{obstacle.waiting} turns wait"
        raise StillSyncing(
            f"{turns} to be written after {seconds:.1f} s: {obstacle.reason}; "
            "nothing is lost, ask again",
            waiting=obstacle.waiting,
            seconds=seconds,
            reason=obstacle.reason,
            retry_after=obstacle.retry_after,
        )

    def close(self) -> None:
        """Let whoever waits go."""
        self._closed.set()
        self._spool.sent()
        self._link.close()

    def _wait_for_redis(self, session_key: str, deadline: float) -> _Obstacle | None:
        """Wait until the session's rows have left the outbox."""
        with self._spool.changed:
            marks = self._spool.marks(session_key)
            while waiting := sum(mark.waiting for mark in marks):
                self._check_open()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    reason = self._publisher.trouble or "they are on their way to Redis"
                    return _Obstacle(waiting, reason)
                self._spool.changed.wait(remaining)
        return None

    def _wait_for_honcho(self, session_key: str, deadline: float) -> _Obstacle | None:
        """Wait until what Redis had accepted for the session when first asked is settled."""
        target: int | None = None
        poll = POLL_FIRST_SECONDS
        while True:
            self._check_open()
            try:
                progress = self._progress(session_key, deadline)
            except BrokerUnavailable as error:
                obstacle = _Obstacle(1, str(error))
                poll = POLL_UNAVAILABLE_SECONDS
            else:
                target = progress.accepted if target is None else target
                first = progress.first_unsettled
                if first is not None and first <= target:
                    obstacle = _obstacle(progress, target - first + 1)
                elif self._spool.doubts(self._link.server):
                    # This process may never have heard of them.
                    self._publisher.ask()
                    obstacle = _Obstacle(1, "Redis was restarted, and may have forgotten some")
                else:
                    return None
                poll = min(poll * 1.5, POLL_LONGEST_SECONDS)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return obstacle
            self._closed.wait(min(poll, remaining))

    def _progress(self, session_key: str, deadline: float) -> Progress:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BrokerUnavailable("Redis does not answer")
        try:
            store = self._link.channel().sessions
        finally:
            self._lock.release()
        try:
            progress: Progress = store.progress(session_key)
        except FAILURES as error:
            with self._lock:
                raise self._link.broken(error) from error
        return progress

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise Closed("this gateway is closed: it no longer knows what is written")


def _obstacle(progress: Progress, unsettled: int) -> _Obstacle:
    """What the turns of a session wait for, as its state in Redis tells."""
    held = progress.inflight + progress.waiting + progress.backlog
    waiting = max(1, min(unsettled, held))
    if progress.state == "sleeping" and progress.wake_at_ms is not None:
        wake = progress.wake_at_ms / 1000
        until = datetime.fromtimestamp(wake, UTC).isoformat(timespec="seconds")
        return _Obstacle(
            waiting,
            f"an attempt to write failed and the next is at {until}",
            max(0.0, wake - time.time()),
        )
    if progress.state == "held":
        return _Obstacle(waiting, "Honcho is not called at the moment, or others go first")
    if progress.state == "leased":
        return _Obstacle(waiting, "a worker is writing")
    return _Obstacle(waiting, "no worker has taken them yet")
