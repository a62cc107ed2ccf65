"""Read-your-writes: waiting until the turns of a session are in Honcho."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from functools import partial

from hermes_tasks.errors import BrokerUnavailable, Closed
from hermes_tasks.gate import Gate, GateStatus, Policy
from hermes_tasks.gateway.link import FAILURES, Link
from hermes_tasks.gateway.listener import Listener
from hermes_tasks.gateway.obstacle import Obstacle, in_redis, still_syncing
from hermes_tasks.gateway.publisher import Publisher
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.transport import Names, Progress, SessionStore

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0
"""How often Redis is asked how far a session is, in case what it announces was lost."""

UNAVAILABLE_SECONDS = 0.5
"""The same while Redis does not answer."""

DOUBT_SECONDS = 0.05
"""The same while the publisher looks what a Redis that was restarted has forgotten."""

SLOW_SECONDS = 1.0
"""A flush that takes longer is logged, with its time."""

ASK_AT_ONCE = 4
"""Threads that ask Redis at a time: Kombu's pool has ten connections."""


class Flush:
    """Waits for the turns of one gateway's sessions. Safe to use from several threads.

    Redis announces that a session is as far as somebody waits for (``progress.lua``).

    Args:
        spool: where turns are until Redis has them.
        publisher: what takes them there.
        link: a connection of its own, so that nobody waits behind the publisher.
        names: of the deployment in Redis.
        policy: of its gates, to tell what turns wait for.
    """

    def __init__(
        self, spool: Spool, publisher: Publisher, link: Link, names: Names, policy: Policy
    ) -> None:
        self._spool = spool
        self._publisher = publisher
        self._link = link
        self._names = names
        self._policy = policy
        self._listener = Listener()
        self._connecting = threading.Lock()
        self._asking = threading.BoundedSemaphore(ASK_AT_ONCE)
        self._closed = threading.Event()

    def wait(self, session_key: str, timeout: float) -> None:
        """Return once every turn of the session that was accepted before is settled.

        Raises:
            StillSyncing: that took longer than ``timeout`` seconds.
            Closed: the gateway was closed meanwhile.
            OutboxError: the outbox cannot be read.
        """
        begun = time.monotonic()
        obstacle = self._wait(session_key, begun + timeout)
        seconds = time.monotonic() - begun
        if obstacle is None:
            if seconds > SLOW_SECONDS:
                logger.info("a flush of session %s took %.1f s", session_key, seconds)
            return
        error = still_syncing(obstacle, seconds)
        if seconds > SLOW_SECONDS:
            logger.info("a flush of session %s ran out of time: %s", session_key, error)
        raise error

    def close(self) -> None:
        """Let whoever waits go."""
        self._closed.set()
        self._spool.sent()
        self._listener.close()
        self._link.close()

    def _wait(self, session_key: str, deadline: float) -> Obstacle | None:
        while True:
            recalls = self._spool.recalls
            obstacle = self._wait_for_redis(session_key, deadline)
            if obstacle is None:
                obstacle = self._wait_for_honcho(session_key, deadline)
            if obstacle is not None or recalls == self._spool.recalls:
                return obstacle
            # Redis had forgotten turns, which are on their way again.

    def _wait_for_redis(self, session_key: str, deadline: float) -> Obstacle | None:
        """Wait until the session's rows have left the outbox."""
        with self._spool.changed:
            marks = self._spool.marks(session_key)
            while waiting := sum(mark.waiting for mark in marks):
                self._check_open()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    trouble, retry_after = self._publisher.trouble, self._publisher.retry_after
                    if trouble is None:
                        return Obstacle(waiting, "they are on their way to Redis")
                    return Obstacle(waiting, trouble, retry_after)
                self._spool.changed.wait(remaining)
        return None

    def _wait_for_honcho(self, session_key: str, deadline: float) -> Obstacle | None:
        """Wait until what Redis had accepted for the session when first asked is settled."""
        target: int | None = None
        waiting = 1
        with self._listener.ear(self._names.channel(session_key)) as ear:
            while True:
                self._check_open()
                try:
                    store = self._store(deadline)
                    progress = self._ask(store, session_key, target, deadline)
                except BrokerUnavailable as error:
                    if self._pause(UNAVAILABLE_SECONDS, deadline):
                        continue
                    return Obstacle(waiting, str(error))
                target = progress.accepted if target is None else target
                first = progress.first_unsettled
                if first is None or first > target:
                    if not self._spool.doubts(self._link.server):
                        return None
                    # This process may never have heard of them.
                    self._publisher.ask()
                    if self._pause(DOUBT_SECONDS, deadline):
                        continue
                    return Obstacle(1, "Redis was restarted, and may have forgotten some")
                waiting = target - first + 1
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return in_redis(progress, target, partial(self._gate, store, session_key))
                self._listener.wait(ear, store, min(LOOK_AGAIN_SECONDS, remaining))

    def _store(self, deadline: float) -> SessionStore:
        if not self._connecting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BrokerUnavailable("Redis does not answer")
        try:
            store: SessionStore = self._link.channel().sessions
        finally:
            self._connecting.release()
        return store

    def _ask(
        self, store: SessionStore, session_key: str, target: int | None, deadline: float
    ) -> Progress:
        """How far the session is; that it is as far as the target will be announced."""
        if not self._asking.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BrokerUnavailable("Redis does not answer")
        try:
            return store.watch(session_key, target)
        except FAILURES as error:
            with self._connecting:
                raise self._link.broken(error) from error
        finally:
            self._asking.release()

    def _gate(self, store: SessionStore, session_key: str) -> GateStatus | None:
        """The gate at which the session waits, if Redis tells."""
        with suppress(*FAILURES):
            return Gate(store, self._policy, session_key.rpartition(":")[0]).status()
        return None

    def _pause(self, seconds: float, deadline: float) -> bool:
        """Wait a little; ``False``: there is no time left for that."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        self._closed.wait(min(seconds, remaining))
        return True

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise Closed("this gateway is closed: it no longer knows what is written")
