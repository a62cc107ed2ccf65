"""What a worker holds, kept alive and given back: leases, and the sessions others left behind.

One keeper per process and deployment, with its own connection, so it outlives the channels that
Celery closes and opens again around every lost connection. Its thread does not stop when the
event loop does (a soft shutdown sleeps in a signal handler, the solo pool runs tasks in the loop).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from hermes_tasks.transport import events
from hermes_tasks.transport.answers import Claimed, Completed, Entry, Outcome
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.sessions import PLENTY, SessionStore
from hermes_tasks.transport.trace import log_given_up

if TYPE_CHECKING:
    import kombu

logger = logging.getLogger(__name__)

#: Seconds between two looks of the thread. Sleepers wake, and lapsed leases are found, within it.
TICK = 0.25
#: Seconds a session may be ready without being on the run queue before it is queued again: longer
#: than a pop and a claim take, shorter than the shortest sensible lease.
GRACE = 3.0
#: Seconds until a failure that lasts is said again.
WARN_EVERY = 30.0
#: Seconds between two looks for dead letters that are too old.
TRIM_EVERY = 60.0
#: Seconds within which Redis must answer the keeper: half of what a default lease leaves it.
SOCKET_TIMEOUT = 5.0


@dataclass(slots=True)
class Holding:
    """A claim this process holds.

    Attributes:
        written: ids that its acknowledgement settles, because its task has written them.
        outcome: set once the claim is over but Redis has not been told yet.
        missed: its lease was not there when it was last renewed.
    """

    claim: Claimed
    settles: bool
    since: float = field(default_factory=time.monotonic)
    written: tuple[str, ...] = ()
    outcome: Outcome | None = None
    missed: bool = False

    @property
    def id(self) -> str:
        """Id of the message that was delivered."""
        return self.claim.items[0].id


@dataclass(frozen=True, slots=True)
class Wanted:
    """That a worker wants its next batch as soon as a claim has ended.

    Attributes:
        token: for the claim of it.
        worker: who claims it.
        unless: lists that come first; while one of them is not empty, nothing is taken.
        full: it has no other slot that is free.
    """

    token: str
    worker: str
    unless: Sequence[str]
    full: bool = True


class Keeper:
    """Renews the leases of this process and rescues sessions of processes that died.

    Its thread and those who end claims share nothing that one could keep from the other: a signal
    may stop the event loop in the middle of a call, for as long as a soft shutdown lasts.

    Args:
        store: over the connection of its thread.
        front: over another, for who ends claims; ``store``, unless given.
    """

    def __init__(self, store: SessionStore, front: SessionStore | None = None) -> None:
        self.store = store
        self._front = front or store
        # Threads, or greenlets, in the middle of a call on it.
        self._calling: set[int] = set()
        self._held: dict[str, Holding] = {}
        # Popped ahead for the next exchange, and when: one, or none.
        self._reserved: deque[tuple[Entry, float]] = deque()
        self._exchanged_at = -TICK
        # To be given back, and the token of a claim that may have been made of each.
        self._returns: deque[tuple[Entry, str]] = deque()
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned: dict[str, float] = {}
        self._trimmed = -TRIM_EVERY
        self._chores: dict[str, Callable[[], object]] = {}
        self.every_tick("drop old dead letters", self._trim)

    # -- what the channel does ---------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="session-keeper", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it. A worker never does: its leases hang on it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def add(self, claim: Claimed, *, settles: bool) -> None:
        """Hold a claim. ``settles``: its acknowledgement settles the message."""
        self._held[claim.token] = Holding(claim, settles)

    def get(self, token: str) -> Holding | None:
        """What is held under a token."""
        return self._held.get(token)

    def finish(
        self, token: str, outcome: Outcome, wanted: Wanted | None = None
    ) -> Claimed | bytes | None:
        """End a claim. If Redis cannot be told now, the thread tells it until it knows.

        Nor can it in the middle of another call: a signal's handler may end a claim there.

        Returns what is ``wanted`` next, if there is anything: a claim, or an entry of the run queue
        that is to be claimed.
        """
        holding = self._held.get(token)
        if holding is None:
            return None
        holding.outcome = outcome
        if get_ident() in self._calling:
            return None
        try:
            with self._call():
                if wanted is not None:
                    return self._exchange(holding, wanted)
                self._complete(holding, self._front)
        # From an acknowledgement it would stop the worker.
        except (RedisError, ValueError) as error:
            logger.warning(
                "Cannot tell Redis how session %s ended, will try again: %s",
                holding.claim.session,
                error,
            )
        return None

    @contextmanager
    def _call(self) -> Iterator[None]:
        """In the middle of which a signal's handler must make no other on the same connection."""
        self._calling.add(get_ident())
        try:
            yield
        finally:
            self._calling.discard(get_ident())

    def release(self, tokens: Iterable[str]) -> None:
        """Give claims back unworked, each session as it is."""
        for token in list(tokens):
            self.finish(token, Outcome.RELEASED)

    def every_tick(self, name: str, chore: Callable[[], object]) -> None:
        """Call ``chore`` on the keeper's thread at every tick; it replaces one of the same name.

        ``name`` completes "Could not …": what it raises is said once in a while, and it is called
        again. It must be quick, and never wait for anything but Redis: leases are renewed by the
        same thread.
        """
        self._chores[name] = chore

    def no_longer(self, name: str) -> None:
        """Do a chore no more."""
        self._chores.pop(name, None)

    @property
    def tokens(self) -> frozenset[str]:
        """Tokens of all claims not yet over."""
        return frozenset(t for t, h in list(self._held.items()) if h.outcome is None)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        renew_every = self.store.options.lease / 3
        renewed = time.monotonic()
        while not self._stopped.wait(TICK):
            self._guarded("finish claims", self._finish_late)
            self._guarded("give a session back", self._give_back_stale)
            self._guarded("rescue sessions", self._rescue)
            if time.monotonic() - renewed >= renew_every:
                renewed = time.monotonic()
                self._guarded("renew leases", self._renew)
            for name, chore in list(self._chores.items()):
                self._guarded(name, chore)

    def _guarded(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except RedisError as error:
            if self._is_news(what):
                logger.warning("Could not %s, will try again: %s", what, error)
        except Exception:  # the thread must outlive every surprise: all leases hang on it
            if self._is_news(what):
                logger.exception("Could not %s, will try again", what)
        else:
            if self._warned.pop(what, None) is not None:
                logger.warning("Can %s again", what)

    def _is_news(self, what: str) -> bool:
        """Whether to say that something fails: each tick would fill a log while Redis is away."""
        now = time.monotonic()
        if now - self._warned.get(what, -WARN_EVERY) < WARN_EVERY:
            return False
        self._warned[what] = now
        return True

    def _finish_late(self) -> None:
        for holding in list(self._held.values()):
            if holding.outcome is not None:
                self._complete(holding, self.store)

    def _renew(self) -> None:
        oldest = time.monotonic() - self.store.options.lease_max_age
        held = [h for h in list(self._held.values()) if h.since > oldest]
        pairs = [(h.claim.session, h.claim.token) for h in held]
        for holding, alive in zip(held, self.store.renew(pairs), strict=True):
            if alive or holding.outcome is not None:
                continue
            if holding.missed:
                logger.warning("The lease on session %s is lost", holding.claim.session)
                self._discard(holding)
            # The first time, its task may have given the lease away, and be just ending.
            holding.missed = True

    def _rescue(self) -> None:
        found = self.store.rescue(TICK, GRACE)
        for session in found.lapsed:
            done = self.store.complete(session, "", Outcome.LAPSED)
            if done.state != "lost":
                logger.warning("The lease on session %s ran out; it is %s", session, done.state)
            self._tell(session, done, Outcome.LAPSED)
        for session in found.due:
            self.store.wake(session)
        if found.requeued:
            logger.warning("%d sessions were missing on the run queue", found.requeued)

    def _trim(self) -> None:
        now = time.monotonic()
        if now - self._trimmed >= TRIM_EVERY:
            DeadLetters(self.store).trim()
            self._trimmed = now

    def _complete(self, holding: Holding, store: SessionStore) -> None:
        assert holding.outcome is not None
        claim = holding.claim
        done = store.complete(
            claim.session, claim.token, holding.outcome, holding.id, written=holding.written
        )
        self._ended(holding, done)

    def _exchange(self, holding: Holding, wanted: Wanted) -> Claimed | bytes | None:
        assert holding.outcome is not None
        claim, reserved = holding.claim, None
        with suppress(IndexError):
            reserved = self._reserved.popleft()[0]
        # Whoever is slow now would only keep what is popped ahead from others.
        before, self._exchanged_at = self._exchanged_at, time.monotonic()
        is_quick = self._exchanged_at - before < TICK
        try:
            done = self._front.exchange(
                claim.session,
                claim.token,
                holding.outcome,
                holding.id,
                written=holding.written,
                reserved=reserved,
                fresh=wanted.token,
                worker=wanted.worker,
                unless=wanted.unless,
                full=wanted.full,
                plenty=PLENTY if is_quick else None,
            )
        except (RedisError, ValueError):
            if reserved is not None:
                self.give_back(reserved, wanted.token)
            raise
        self._ended(holding, done.completed)
        if done.reserved is not None:
            try:
                self._reserved.append((Entry.parse(done.reserved), time.monotonic()))
            except ValueError:
                logger.error("Dropped a malformed entry of %s", self.store.names.run)
        return done.claimed or done.entry

    def _ended(self, holding: Holding, done: Completed) -> None:
        self._discard(holding)
        claim, outcome = holding.claim, holding.outcome
        assert outcome is not None
        if outcome is Outcome.WRITTEN and done.state != "lost":
            events.written(self.store, claim.session, holding.written)
        self._tell(claim.session, done, outcome)

    # -- entries of the run queue that are given back ---------------------------------------------

    def give_back(self, entry: Entry, token: str) -> None:
        """Let others have a session soon, though nobody knows whether it was claimed with a token.

        If it was, nobody holds that lease: the session would wait for its end, and lose an attempt.
        """
        self._returns.append((entry, token))

    def give_back_reserved(self) -> None:
        """Let others have what was popped ahead: there is no next exchange."""
        with self._call():
            self._give_back(self._front, stale=0.0)

    def _give_back_stale(self) -> None:
        # Others may lack work by now: the next exchange should have come at once.
        self._give_back(self.store, stale=TICK)

    def _give_back(self, store: SessionStore, stale: float) -> None:
        with suppress(IndexError):  # there is none, or another thread was quicker
            if time.monotonic() - self._reserved[0][1] >= stale:
                self._returns.append((self._reserved.popleft()[0], ""))
        for _ in range(len(self._returns)):
            with suppress(IndexError):
                self._return_one(store)

    def _return_one(self, store: SessionStore) -> None:
        entry, token = self._returns.popleft()
        try:
            released = token and store.complete(entry.session, token, Outcome.RELEASED)
            if not released or released.state == "lost":
                # If it was released before, this is no longer true, which does no harm.
                store.give_back(str(entry))
        except RedisError:
            self._returns.append((entry, token))
            raise

    def _tell(self, session: str, done: Completed, outcome: Outcome) -> None:
        if not done.given_up:
            return
        reason = outcome.value  # revoked or expired, as somebody has asked for
        if done.state == "dead":
            reason = "attempts"
            log_given_up(logger, done.given_up, session, done.trace)
        events.dropped(self.store, session, [done.given_up], reason)

    def _discard(self, holding: Holding) -> None:
        self._held.pop(holding.claim.token, None)


_keepers: dict[tuple[Any, ...], Keeper] = {}
_keepers_mutex = threading.Lock()


def keeper_for(connection: kombu.Connection, store: SessionStore) -> Keeper:
    """The keeper of this process for a deployment; made with a connection of its own."""
    key = (connection.as_uri(include_password=True), store.names, store.options)
    with _keepers_mutex:
        keeper = _keepers.get(key)
        if keeper is None:
            keeper = _keepers[key] = Keeper(
                private_store(connection, single=True), private_store(connection, single=True)
            )
        return keeper


def holding_of(token: str) -> tuple[Keeper, Holding] | None:
    """Who holds a token in this process, whatever channel it came through."""
    for keeper in _keepers.values():
        holding = keeper.get(token)
        if holding is not None:
            return keeper, holding
    return None


def private_store(
    connection: kombu.Connection, *, single: bool = False, timeout: float = SOCKET_TIMEOUT
) -> SessionStore:
    """A store with a connection pool of its own, for any number of threads.

    ``single``: one connection, never given back: spares a system call before every command.
    ``timeout``: seconds within which Redis must answer.
    """
    channel: Any = connection.clone().channel()
    channel.socket_timeout = channel.socket_connect_timeout = timeout
    channel.max_connections = 2**16  # Kombu's 10 raise an error under the threads pool
    store: SessionStore = channel.new_store(single=single)
    # Kombu has asked there whether Redis answers, and would keep that connection open.
    channel.async_pool.disconnect()
    return store


def _after_fork_in_child() -> None:
    """A pool process holds nothing: its parent does."""
    global _keepers_mutex
    _keepers.clear()
    _keepers_mutex = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
