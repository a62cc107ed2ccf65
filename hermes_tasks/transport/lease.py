"""A task's side of a claim: the batch it works on, and its right to write for the session."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from billiard.process import current_process
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from kombu.serialization import prepare_accept_content

from hermes_tasks.errors import GivenUp, LeaseLost, SessionHeld
from hermes_tasks.transport import events, wire
from hermes_tasks.transport.answers import Doubt
from hermes_tasks.transport.keeper import private_store
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.trace import log_given_up

if TYPE_CHECKING:
    from celery import Task

logger = logging.getLogger(__name__)

#: macOS has no CLOCK_BOOTTIME; its monotonic clock goes on during sleep.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

#: Share of the lease, after ``begin``, in which the first byte may leave. Later a process may have
#: been stopped so long that another worker owns the session: it does not send.
SEND_WITHIN = 0.6
#: How often what an earlier call may have carried is asked for in vain before it is written.
QUESTIONS = 2


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """One message of a batch, as its task was called.

    Attributes:
        number: its place in the session.
        accepted: when it was accepted or, if it was delayed, became due; ms of Redis time.
    """

    id: str
    number: int
    accepted: int
    args: Sequence[Any]
    kwargs: dict[str, Any]
    headers: dict[str, Any]


class SessionLease:
    """The right to write for one session, for as long as Redis and the clock agree.

    Get it in a task with :meth:`of`. Every method may raise
    :class:`~hermes_tasks.errors.LeaseLost`: the task must then send nothing more, and end.

    Attributes:
        session: the session's name.
        token: the fencing token of the claim.
        messages: the batch, the task's own message first. A follower that cannot be decoded, and
            all behind it, are left for the next claim.
        doubt: calls that write some of them may have gone out before: ask before writing.
        rewritten: ids of the latest messages of the session that were written while in doubt. A
            question that is asked anyway may tell whether one of them was written twice.
        attempts: failed attempts of the head so far.
        tries: times the task has postponed the head.
        settles: how many messages, from the first, leave the queue with the acknowledgement; see
            :meth:`commit`.
    """

    def __init__(
        self,
        store: SessionStore,
        session: str,
        token: str,
        messages: Sequence[BatchMessage],
        *,
        attempts: int,
        tries: int = 0,
        now: int = 0,
        doubt: Doubt | None = None,
        forgotten: int = 0,
        rewritten: Sequence[str] = (),
        record: Callable[[BatchMessage, str], None] | None = None,
    ) -> None:
        self.session = session
        self.messages = tuple(messages)
        self.doubt = doubt
        self.rewritten = tuple(rewritten)
        self.attempts = attempts
        self.tries = tries
        self._claimed_ms = now
        self._forgotten = forgotten
        self._asked = doubt.asked if doubt else 0
        self._since = self.now()
        self._store = store
        self.token = token
        self._by_id = {message.id: message for message in messages}
        self._open = set(self._by_id)
        self.settles = 0
        self._record = record
        self._send_before: float | None = None

    @classmethod
    def of(cls, task: Task) -> Self | None:
        """The lease under which ``task`` runs, or ``None`` if it came from an ordinary queue."""
        request = task.request
        info = (request.properties or {}).get("session")
        if not info:
            return None
        head = BatchMessage(
            request.id,
            info["number"],
            info["accepted"],
            request.args,
            request.kwargs,
            request.headers or {},
        )
        messages = [head, *_followers(info["followers"], task.app.conf.accept_content)]
        return cls(
            _store_of(task.app),
            info["name"],
            info["token"],
            messages,
            attempts=info["attempts"],
            tries=info["tries"],
            now=info["now"],
            doubt=Doubt(*info["doubt"]) if info["doubt"] else None,
            forgotten=info["forgotten"],
            rewritten=info["rewritten"],
            record=_result_recorder(task),
        )

    @property
    def again(self) -> bool:
        """Whether a call that writes some of the messages may have gone out before."""
        return self.doubt is not None

    def ask_again(self, ids: Iterable[str], resent: Collection[str] = ()) -> bool:
        """Messages were asked for and not found: whether to ask once more before they are written.

        An earlier call may take effect long after it was given up. So what it may have carried is
        written only after two questions in vain, the second when that time is over, and until
        then the session sleeps in Redis.

        Args:
            ids: the messages that are written next, of those that were asked for.
            resent: ids of messages whose sender does not know whether they were accepted before.

        Raises:
            SessionHeld: the session sleeps until that call cannot take effect any more. The task
                must end now, with ``Ignore``; no attempt is counted.
        """
        doubt, numbers = self.doubt, []
        until, again = 0, False
        for id in ids:
            number = self._by_id[id].number
            if doubt is not None and number <= doubt.last:
                until, again = max(until, doubt.until), doubt.until > 0
            elif id in resent:
                until = max(until, self._forgotten)
            else:
                continue
            numbers.append(number)
        if self._claimed_ms < until:
            first, last = min(numbers), max(numbers)
            if not self._store.wait(self.session, self.token, first, last, until):
                raise self._lost()
            raise SessionHeld(f"an earlier call for session {self.session} may still land")
        self._asked += 1
        return again and self._asked < QUESTIONS

    def begin(self, ids: Iterable[str] | None = None) -> None:
        """Record that a call is about to be made; renew the lease.

        ``ids``: the messages it writes, or none; all of the batch unless given.
        """
        first, last = self.numbers(self._by_id if ids is None else ids)
        at = self.now()
        if not self._store.begin(self.session, self.token, first, last):
            raise self._lost()
        self.began(at)

    def numbers(self, ids: Iterable[str]) -> tuple[int, int]:
        """The first and the last number of messages of the batch; ``(0, 0)`` for none."""
        numbers = [self._by_id[id].number for id in ids]
        return (min(numbers), max(numbers)) if numbers else (0, 0)

    def began(self, at: float) -> None:
        """A call was recorded in Redis, and the lease renewed, not before ``at`` of :meth:`now`."""
        self._send_before = at + SEND_WITHIN * self._store.options.lease

    @staticmethod
    def now() -> float:
        """Seconds of a clock that goes on while the process, or the machine, is stopped."""
        return time.clock_gettime(_CLOCK)

    def check(self) -> None:
        """Call right before the first byte leaves: raises if this process was stopped too long."""
        if self._send_before is None or self.now() > self._send_before:
            raise self._lost()

    def commit(self, ids: Iterable[str], *, at_end: bool = False) -> None:
        """These messages have just been written; they leave the queue.

        ``at_end``: the task returns a :class:`~.task.BatchResult` with :attr:`settles` of this
        lease. If these are all messages of the batch, and no results are kept, Redis is then told
        by the acknowledgement, which spares a round trip of every batch that is written as a whole.
        A worker that dies in between leaves a call in doubt, as one does that dies before a commit.
        """
        ids = list(ids)
        # The acknowledgement only says how many. Of a batch that was settled in parts, in halves or
        # by a question, hooks would be told twice, and of what was given up that it is written.
        whole = len(self._open) == len(self.messages) and self._open.issubset(ids)
        # Where results are kept they come before it: whoever has one finds its message settled, and
        # a backend that takes none leaves no call in doubt.
        if at_end and whole and self.doubt is None and self._record is None:
            self.settles = len(self.messages)
            return
        doubtful = self.doubt.last if self.doubt and self.doubt.until else 0
        if not self._store.commit(self.session, self.token, ids, doubtful=doubtful):
            raise self._lost()
        self._settled(ids)

    def commit_found(self, ids: Iterable[str], twice: Collection[str] = ()) -> None:
        """These messages were found to be written before; they leave the queue.

        ``twice``: ids, of these or of the rewritten ones, that were found more than once: a call
        took effect later than was waited for it. That is said and counted.
        """
        ids = list(ids)
        if not self._store.commit_found(self.session, self.token, ids, twice):
            raise self._lost()
        self.rewritten = tuple(id for id in self.rewritten if id not in twice)
        for id in twice:
            logger.warning(
                "Message %s of session %s is written twice: a call landed more than %g s after "
                "its start",
                id,
                self.session,
                self._store.options.landing,
            )
        self._settled(ids)

    def bury(self, id: str, reason: str, detail: str = "", *, in_doubt: bool = True) -> None:
        """This message is given up, as a dead letter. ``reason`` is one word, ``detail`` a line.

        ``in_doubt``: as in :meth:`postpone`.
        """
        trace = self._store.bury(
            self.session, self.token, id, reason=reason, detail=detail, in_doubt=in_doubt
        )
        if trace is None:
            raise self._lost()
        log_given_up(logger, id, self.session, trace, f"{reason}: {detail}" if detail else reason)
        self._settled([id], reason, detail)

    def postpone(
        self, seconds: float, most: int = 1, note: str = "", *, in_doubt: bool = True
    ) -> None:
        """Let the head be tried again in ``seconds``. The task must end now, with ``Ignore``.

        The session then sleeps in Redis, without an attempt being counted. ``most``: messages of
        its next batch; ``note``: what went wrong, a line for the trace without any content;
        ``in_doubt``: a call for its messages may still take effect. After a call that was
        answered, and did not write, nothing can.
        """
        if not self._store.postpone(
            self.session, self.token, seconds, most=most, note=note, in_doubt=in_doubt
        ):
            raise self._lost()

    def note(self, text: str) -> None:
        """Add what went wrong to the trace of the head: a line without any content.

        A trace is told if the head is given up, and forgotten if not.
        """
        if not self._store.note(self.session, self.token, text):
            raise self._lost()

    def count(self, name: str) -> None:
        """Add one to a counter of the deployment, which :meth:`.SessionStore.counters` gives."""
        events.counter(self._store)({name: 1})

    def age(self, message: BatchMessage) -> float:
        """Seconds since a message was accepted or, if it was delayed, became due; at least 0."""
        at_claim = (self._claimed_ms - message.accepted) / 1000
        return max(0.0, at_claim + self.now() - self._since)

    def _settled(self, ids: Sequence[str], reason: str = "", detail: str = "") -> None:
        if reason:
            events.dropped(self._store, self.session, ids, reason, detail)
        else:
            events.written(self._store, self.session, ids)
        self._open.difference_update(ids)
        self._store_results(ids, reason)

    def _store_results(self, ids: Iterable[str], reason: str = "") -> None:
        if self._record is not None:
            for id in ids:
                self._record(self._by_id[id], reason)

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"the lease on session {self.session} is over; another worker has it")


def _result_recorder(task: Task) -> Callable[[BatchMessage, str], None] | None:
    """Stores the results of followers, where results are kept; Celery stores the head's."""
    if isinstance(task.backend, DisabledBackend):
        return None

    def record(message: BatchMessage, reason: str) -> None:
        ignored = message.headers.get("ignore_result")
        if message.id == task.request.id or (task.ignore_result if ignored is None else ignored):
            return
        request = Context(message.headers)
        try:
            if reason:
                task.backend.mark_as_failure(message.id, GivenUp(reason), request=request)
            else:
                task.backend.mark_as_done(message.id, None, request=request)
        except Exception:  # the message is settled, whether or not anybody learns of it
            logger.exception("Cannot store the result of task %s", message.id)

    return record


def _followers(
    entries: Sequence[tuple[int, str, str, int]], accept: Iterable[str]
) -> Iterable[BatchMessage]:
    types: Collection[str] | None = prepare_accept_content(accept)
    for number, id, text, accepted in entries:
        try:
            message = wire.unpack(text)
            args, kwargs = wire.decode_body(message, types)
        except Exception:  # noqa: BLE001 - whatever is wrong with it is found when it comes first
            return
        yield BatchMessage(id, number, accepted, args, kwargs, message["headers"])


_stores: dict[tuple[int, int], SessionStore] = {}
_stores_mutex = threading.Lock()


def _store_of(app: Any) -> SessionStore:
    """This process's store, made after any fork."""
    key = (os.getpid(), id(app))
    store = _stores.get(key)
    if store is None:
        with _stores_mutex:
            store = _stores.get(key)
            if store is None:
                # A prefork process runs one task at a time.
                prefork = current_process().name != "MainProcess"
                store = _stores[key] = private_store(app.connection_for_write(), single=prefork)
    return store


def _after_fork_in_child() -> None:
    global _stores_mutex
    _stores.clear()
    _stores_mutex = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
