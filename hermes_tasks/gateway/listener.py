"""Hears from Redis that turns were settled: one subscribed connection for all who wait for some.

Who waits reads for everybody: of the threads that wait, one at a time listens to the connection and
wakes those whom a message concerns. So there is no thread to start, to keep and to end.

Nothing relies on being told. A message may be lost with its connection, and Redis keeps none: who
waits also asks, rarely.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis.client import PubSub
from redis.exceptions import NoPermissionError

from hermes_tasks.gateway.link import FAILURES
from hermes_tasks.transport import SessionStore

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
"""How long nobody listens after the connection failed."""


class Ear:
    """One who waits for a session.

    Attributes:
        channel: what it listens to.
        heard: something came on that channel, or may have.
    """

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.heard = False


class Listener:
    """The channels of sessions that somebody waits for. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ears: set[Ear] = set()
        self._wanted: Counter[str] = Counter()
        self._subscribed: set[str] = set()
        self._store: SessionStore | None = None
        self._pubsub: PubSub | None = None
        self._reading = False
        self._refused = False
        self._paused_until = 0.0
        self._closed = False

    @contextmanager
    def ear(self, channel: str) -> Iterator[Ear]:
        """Listen to a channel while the context lasts; from the first :meth:`wait` on."""
        ear = Ear(channel)
        with self._changed:
            self._ears.add(ear)
            self._wanted[channel] += 1
        try:
            yield ear
        finally:
            with self._changed:
                self._ears.discard(ear)
                self._wanted[channel] -= 1
                if not self._wanted[channel]:
                    del self._wanted[channel]
                    if self._pubsub is not None and channel in self._subscribed:
                        self._subscribed.discard(channel)
                        self._attempt(self._pubsub.unsubscribe, channel)

    def wait(self, ear: Ear, store: SessionStore, timeout: float) -> None:
        """Return when something was heard since the last call, or after ``timeout`` seconds.

        It also returns when the channel was just subscribed to, or the connection was lost: in
        both cases something may have been missed.

        Args:
            ear: who waits.
            store: sessions whose connections lead to the Redis that is listened to.
            timeout: seconds.
        """
        until = time.monotonic() + timeout
        with self._changed:
            self._subscribe(store)
            while not ear.heard and not self._closed:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                if self._pubsub is not None and not self._reading:
                    self._read(self._pubsub, remaining)
                elif self._pubsub is not None or self._refused:
                    self._changed.wait(remaining)
                elif (pause := self._paused_until - time.monotonic()) > 0:
                    self._changed.wait(min(remaining, pause))
                else:
                    break  # and come back, to subscribe anew
            ear.heard = False

    def close(self) -> None:
        """Let everybody go, and drop the connection."""
        with self._changed:
            self._closed = True
            self._drop()

    def _subscribe(self, store: SessionStore) -> None:
        if self._store is not store:
            self._drop()
            self._store, self._refused, self._paused_until = store, False, 0.0
        if self._refused or self._closed or time.monotonic() < self._paused_until:
            return
        if self._pubsub is None:
            self._pubsub = PubSub(store.client.connection_pool)
        missing = self._wanted.keys() - self._subscribed
        if missing:
            self._subscribed |= missing
            self._attempt(self._pubsub.subscribe, *missing)

    def _read(self, pubsub: PubSub, timeout: float) -> None:
        """Wait for one message, without the lock that others need to join and to leave."""
        self._reading = True
        self._changed.release()
        message: Any = None
        failure: Exception | None = None
        try:
            message = pubsub.get_message(timeout=timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, asking goes on
            failure = error
        finally:
            self._changed.acquire()
            self._reading = False
        if pubsub is not self._pubsub:
            _close(pubsub)
        elif failure is not None:
            self._lost(failure)
        elif message is not None and message["type"] != "unsubscribe":
            self._tell(message["channel"].decode())
        # Whoever leaves now must be followed by another who reads.
        self._changed.notify_all()

    def _tell(self, channel: str | None = None) -> None:
        for ear in self._ears:
            if channel is None or ear.channel == channel:
                ear.heard = True
        self._changed.notify_all()

    def _attempt(self, command: Any, *channels: str) -> None:
        try:
            command(*channels)
        except FAILURES as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Listen no more over this connection; soon over another, unless that is forbidden."""
        if isinstance(error, NoPermissionError):
            if not self._refused:
                logger.warning(
                    "the ACL of the Redis user forbids to subscribe to channels of sessions: "
                    "a flush returns up to a second after its turns are written"
                )
            self._refused = True
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self._drop()

    def _drop(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        self._subscribed.clear()
        if pubsub is None:
            return
        self._tell()
        connection: Any = pubsub.connection
        if not self._reading:
            _close(pubsub)
        elif connection is not None:
            connection.disconnect()  # whoever reads it now wakes, and closes it


def _close(pubsub: PubSub) -> None:
    with suppress(*FAILURES):  # a connection that is given up has nothing more to say
        pubsub.close()
