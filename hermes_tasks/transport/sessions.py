"""The state of sessions in Redis: one typed function for every script.

Each method is one script, and so one atomic change; the ``.lua`` file of the same name gives its
contract. All are safe to repeat, because redis-py repeats a command whose connection broke.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self
from urllib.parse import quote, unquote

import redis

from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names
from hermes_tasks.transport.scripts import exchange_script, script, session_script

#: Entries of the run queue above which a worker may have one reserved: nobody lacks work now, nor
#: will in the moment until it is claimed.
PLENTY = 16
#: Session ids in one answer of ``rescue``: a bound on what one sweep does, not on what is found.
SWEEP = 200
#: Most characters in a line of a trace, and of a dead letter's detail.
LINE = 300


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions behave; every field is a transport option named ``session_<field>``.

    Attributes:
        prefix: name of the deployment, in every key and queue name.
        lease: seconds a worker's right to a session lasts unless renewed.
        waiting_limit: messages a session queue holds before the oldest overflow to the backlog.
        backlog_limit: messages the backlog holds before the oldest is given up.
        batch_messages: most messages in one batch.
        batch_size: most size (the sum of the ``session_size`` headers) in one batch.
        max_attempts: failed attempts in a row after which a head is a dead letter.
        retry_first: seconds to wait after the first failed attempt, doubling, jittered.
        retry_longest: the longest such wait, in seconds.
        dead_max_age: seconds that a dead letter is kept.
        lease_max_age: seconds after which a claim is no longer renewed: no task should take so
            long, and the threads pool has no hard time limit of its own.
        landing: seconds after its start in which a call that a task makes may still take effect,
            whatever the task has heard of it.
        message_limit: bytes of a message above which it is given up unread; 0: none is too long.
    """

    prefix: str = DEFAULT_PREFIX
    lease: float = 15.0
    waiting_limit: int = 64
    backlog_limit: int = 256
    batch_messages: int = 50
    batch_size: int = 100
    max_attempts: int = 5
    retry_first: float = 1.0
    retry_longest: float = 60.0
    dead_max_age: float = 30 * 86_400.0
    lease_max_age: float = 600.0
    landing: float = 45.0
    message_limit: int = 0

    @classmethod
    def from_transport_options(cls, options: dict[str, Any]) -> Self:
        """Read the ``session_*`` entries of Kombu's ``transport_options``."""
        return cls(
            **{
                name: options[f"session_{name}"]
                for name in cls.__dataclass_fields__
                if f"session_{name}" in options
            }
        )

    @property
    def lease_ms(self) -> int:
        return int(self.lease * 1000)

    @property
    def landing_ms(self) -> int:
        return math.ceil(self.landing * 1000)


class Outcome(StrEnum):
    """How a claim ended; ``complete.lua`` says what each leads to."""

    ENDED = "ended"
    WRITTEN = "written"
    SETTLED = "settled"
    REVOKED = "revoked"
    EXPIRED = "expired"
    FAILED = "failed"
    RELEASED = "released"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class PushAnswer:
    """What ``push`` did: ``accepted``, ``duplicate``, ``gap``, ``retried`` or ``stale``.

    Attributes:
        number: the message's place in its session (0 where it has none).
        dropped: ids given up because waiting queue and backlog were full.
    """

    status: str
    number: int
    dropped: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: Sequence[Any]) -> Self:
        """What ``push.lua`` returned."""
        return cls(raw[0].decode(), raw[1], tuple(unquote(id.decode()) for id in raw[2:]))


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the run queue: a session, and a number that it had since it became ready."""

    number: int
    session: str

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """What was popped.

        Raises:
            ValueError: it is no entry.
        """
        try:
            return cls.of(json.loads(text))
        except RecursionError as error:
            raise ValueError("not an entry of a run queue") from error

    @classmethod
    def of(cls, raw: Any) -> Self:
        """The same from JSON that has been read already."""
        try:
            number, session = int(raw[0]), str(raw[1])
            session.encode()
        except (TypeError, LookupError, OverflowError) as error:
            raise ValueError("not an entry of a run queue") from error
        return cls(number, session)

    def __str__(self) -> str:
        return json.dumps([str(self.number), self.session])


@dataclass(frozen=True, slots=True)
class Item:
    """One message of a session queue as Redis holds it.

    Attributes:
        accepted: when it was accepted or, if it was delayed, became due; ms of Redis time.
    """

    number: int
    id: str
    accepted: int
    message: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        number, quoted, _size, _kind, since, message = raw.split(b" ", 5)
        return cls(int(number), unquote(quoted.decode()), int(since.rstrip(b"+")), message)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Calls that may have been made before, and what is known of them. Times are ms of Redis time.

    Attributes:
        first, last: numbers of the messages that they carried, and maybe of some between.
        until: before that one of them may still take effect; 0: all were answered. What was not
            found may be written only when it was not found after that.
        asked: how often it was asked in vain since the latest of them.
    """

    first: int
    last: int
    until: int
    asked: int

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """A session's intent; ``None`` if it has none."""
        return cls(*map(int, raw.split())) if raw else None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A lease on a session, and the messages to work on, oldest first.

    Attributes:
        token: the fencing token; random, because a counter repeats after a Redis rollback.
        attempts: failed attempts of the head so far.
        tries: times its task has postponed the head.
        now: when it was claimed, ms of Redis time.
        items: the messages.
        doubt: calls for some of them that may have been made before.
        forgotten: ms of Redis time until which a call may take effect that Redis has forgotten,
            and with it the message; 0 if none can.
        rewritten: the latest messages of the session that were written while in doubt.
    """

    session: str
    token: str
    attempts: int
    tries: int
    now: int
    items: tuple[Item, ...]
    doubt: Doubt | None = None
    forgotten: int = 0
    rewritten: tuple[str, ...] = ()

    @classmethod
    def parse(cls, session: str, token: str, answer: Sequence[Any]) -> Self | None:
        """What ``claim.lua`` returned; ``None``: there was nothing to take."""
        if not answer:
            return None
        attempts, tries, now, intent, forgotten, rewritten, *items = answer
        return cls(
            session,
            token,
            attempts,
            tries,
            now,
            tuple(map(Item.parse, items)),
            Doubt.parse(intent),
            forgotten,
            tuple(unquote(id.decode()) for id in rewritten.split()),
        )

    @property
    def again(self) -> bool:
        """Whether a call that writes some of them may have gone out before."""
        return self.doubt is not None


@dataclass(frozen=True, slots=True)
class Completed:
    """What became of a claim.

    Attributes:
        state: ``idle``, ``ready`` or ``sleeping``, as the session is now; ``dead`` when its head
            was given up; ``lost`` when the token no longer held the lease.
        given_up: id of the head, if it is a dead letter now: failed, revoked or expired.
        trace: what that one went through; see :mod:`.trace`.
    """

    state: str
    given_up: str = ""
    trace: str = ""

    @classmethod
    def parse(cls, answer: Sequence[Any]) -> Self:
        """What ``complete.lua`` returned."""
        state, id, trace = (*answer, None, None)[:3]
        return cls(state.decode(), unquote(_text(id)), _text(trace))


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What became of a claim, and what is next.

    Attributes:
        completed: the claim that ended.
        claimed: the reserved session, if it was still to be had.
        entry: if not, an entry of the run queue that is to be claimed.
        reserved: an entry for the next exchange.
    """

    completed: Completed
    claimed: Claimed | None = None
    entry: bytes | None = None
    reserved: bytes | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is.

    Attributes:
        state: ``idle``, ``ready``, ``leased``, ``sleeping`` or ``held``.
        accepted: number of the newest message accepted.
        first_unsettled: number of the oldest message not yet settled, ``None`` if all are. Every
            message with a lower number is written or a dead letter.
        wake_at_ms: when a sleeping session wakes.
        now_ms: when this was read.
        since_ms: when the oldest unsettled message was accepted or, if it was delayed, became due.
        swept_at_ms: when any worker last looked after the sessions; ``None``: none ever has.
        lands_ms: until when a call may take effect that the session has in doubt; 0: none can.
        ahead: sessions that are ready before this one, if it is.
        trace: what the head went through; see :mod:`.trace`.

    Times are ms of Redis time.
    """

    state: str
    accepted: int
    first_unsettled: int | None
    inflight: int
    waiting: int
    backlog: int
    wake_at_ms: int | None
    attempts: int
    now_ms: int
    since_ms: int | None
    swept_at_ms: int | None
    lands_ms: int
    ahead: int
    trace: str

    @classmethod
    def parse(cls, answer: Sequence[Any]) -> Self:
        """What ``progress.lua`` returned."""
        state, accepted, first, inflight, waiting, backlog, wake, attempts, *more = answer
        now, since, swept_at, lands, ahead, trace = more
        return cls(
            state.decode(),
            accepted,
            first if first >= 0 else None,
            inflight,
            waiting,
            backlog,
            wake if wake >= 0 else None,
            attempts,
            now,
            since if since >= 0 else None,
            swept_at if swept_at >= 0 else None,
            lands,
            ahead,
            _text(trace),
        )


@dataclass(frozen=True, slots=True)
class Help:
    """What a sweep found: lapsed leases, due sleepers, and how many sessions were requeued."""

    lapsed: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    requeued: int = 0


@dataclass(slots=True)
class SessionStore:
    """All sessions of one deployment, over one Redis client (any number of threads)."""

    client: redis.Redis
    names: Names = field(default_factory=Names)
    options: SessionOptions = field(default_factory=SessionOptions)

    def push(
        self,
        session: str,
        message: str,
        *,
        id: str,
        size: int = 1,
        kind: str = "-",
        delay: float = 0.0,
        token: str = "",
        sender: str = "-",
        sent: int = 0,
        previous: int | None = None,
    ) -> PushAnswer:
        """Append a message, or replace the head by its retry when ``token`` is given."""
        answer = self._run(
            "push",
            session,
            *self.push_arguments(
                message,
                id=id,
                size=size,
                kind=kind,
                delay=delay,
                token=token,
                sender=sender,
                sent=sent,
                previous=previous,
            ),
        )
        return PushAnswer.parse(answer)

    def push_arguments(
        self,
        message: str,
        *,
        id: str,
        size: int,
        kind: str,
        delay: float,
        token: str,
        sender: str,
        sent: int,
        previous: int | None,
    ) -> tuple[Any, ...]:
        """ARGV of ``push.lua`` after the session, for callers that pipeline it themselves."""
        return (
            message,
            quote_id(id),
            size,
            kind,
            max(0, int(delay * 1000)),
            token,
            self.options.waiting_limit,
            self.options.backlog_limit,
            quote_id(sender),
            sent,
            "" if previous is None else previous,
        )

    def claim(self, session: str, number: int, token: str, worker: str) -> Claimed | None:
        """Lease the session of a popped run-queue entry; ``None`` for an entry no longer true."""
        answer = self._run("claim", session, *self._claim_arguments(number, token, worker))
        return Claimed.parse(session, token, answer)

    def _claim_arguments(self, number: int, token: str, worker: str) -> tuple[Any, ...]:
        options = self.options
        return (
            number,
            token,
            options.lease_ms,
            worker,
            options.batch_messages,
            options.batch_size,
            options.landing_ms,
        )

    def begin(self, session: str, token: str, first: int, last: int) -> bool:
        """Record that a call writing messages ``first``…``last`` (0, 0: nothing) starts now.

        ``False`` when the token no longer holds the lease: nothing may be sent then.
        """
        lease, landing = self.options.lease_ms, self.options.landing_ms
        return bool(self._run("begin", session, token, lease, landing, first, last))

    def commit(self, session: str, token: str, ids: Iterable[str], *, doubtful: int = 0) -> bool:
        """Settle messages that a call has just written.

        ``doubtful``: the highest number that was in doubt before that call; those up to it are
        remembered as rewritten. ``False``: the token no longer holds the lease.
        """
        return self._commit(session, token, ids, "written", doubtful)

    def commit_found(
        self, session: str, token: str, ids: Iterable[str], twice: Iterable[str] = ()
    ) -> bool:
        """Settle messages that were found to be written, and count what was so ``twice``.

        ``twice`` may also name rewritten messages; each is counted once. ``False``: lease lost.
        """
        again = set(twice)
        once = [id for id in ids if id not in again]
        held = self._commit(session, token, once, "found") if once or not again else True
        return held and (not again or self._commit(session, token, sorted(again), "twice"))

    def bury(
        self,
        session: str,
        token: str,
        id: str,
        *,
        reason: str,
        detail: str = "",
        in_doubt: bool = True,
    ) -> str | None:
        """Settle a message as a dead letter, for a ``reason`` of one word.

        ``in_doubt``: a call for it may still take effect, if one was made.

        Returns its trace (see :mod:`.trace`) if it was the head, else ``""``; ``None`` when the
        token no longer holds the lease.
        """
        arguments = (reason, one_line(detail), int(in_doubt), quote_id(id))
        answer = self._run("commit", session, token, *arguments)
        return None if answer == -1 else _text(answer)

    def postpone(
        self,
        session: str,
        token: str,
        seconds: float,
        *,
        most: int = 1,
        note: str = "",
        in_doubt: bool = True,
    ) -> bool:
        """Let a session sleep for ``seconds`` once its claim is completed, without an attempt.

        ``most``: messages in its next batch; ``note``: a line for the trace; ``in_doubt``: a call
        for its messages may still take effect. ``False``: lease lost.
        """
        wait = max(0, int(seconds * 1000))
        return bool(
            self._run("postpone", session, token, wait, max(1, most), one_line(note), int(in_doubt))
        )

    def wait(self, session: str, token: str, first: int, last: int, until: int) -> bool:
        """Let a session sleep until no call that may have been made before can take effect.

        Its messages ``first``…``last`` were asked for in vain, before ``until`` (ms of Redis time).
        The claim is over with this, without an attempt. ``False``: it was before.
        """
        return bool(self._run("wait", session, token, first, last, until))

    def note(self, session: str, token: str, text: str) -> bool:
        """Add a line to the trace of a session's head. ``False``: lease lost."""
        return bool(self._run("note", session, token, one_line(text)))

    def complete(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        *,
        written: Iterable[str] = (),
    ) -> Completed:
        """End a claim. ``written``: ids that the outcome of that name settles."""
        arguments = self._complete_arguments(token, outcome, id, written)
        return Completed.parse(self._run("complete", session, *arguments))

    def _complete_arguments(
        self, token: str, outcome: Outcome, id: str, written: Iterable[str]
    ) -> tuple[Any, ...]:
        options = self.options
        return (
            token,
            outcome.value,
            quote_id(id),
            int(options.retry_first * 1000),
            int(options.retry_longest * 1000),
            random.random(),
            options.max_attempts,
            *map(quote_id, written),
        )

    def exchange(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        *,
        written: Iterable[str] = (),
        reserved: Entry | None,
        fresh: str,
        worker: str,
        unless: Sequence[str] = (),
        plenty: int = PLENTY,
    ) -> Exchanged:
        """End a claim as :meth:`complete` does, and take what is next.

        Args:
            session, token, outcome, id, written: as of :meth:`complete`.
            reserved: the entry that the last exchange reserved.
            fresh, worker: token and worker of the claim of that.
            unless: lists that come first; while one of them is not empty, nothing is taken.
            plenty: entries on the run queue above which another is reserved.
        """
        ending = (session, *self._complete_arguments(token, outcome, id, written))
        keys = self.names.session(session)
        claiming: tuple[Any, ...] = ()
        if reserved is not None:
            keys = (*keys, *self.names.own(reserved.session))
            claiming = (reserved.session, *self._claim_arguments(reserved.number, fresh, worker))
        ended, claimed, entry, ahead = exchange_script()(
            self.client, (*keys, *unless), (plenty, len(ending), *ending, *claiming)
        )
        return Exchanged(
            Completed.parse(ended),
            None if reserved is None else Claimed.parse(reserved.session, fresh, claimed),
            entry,
            ahead,
        )

    def wake(self, session: str) -> bool:
        """Queue a sleeping session whose time has come."""
        return bool(self._run("wake", session))

    def purge(self, session: str) -> int:
        """Drop what waits in a session; returns how many messages."""
        return int(self._run("purge", session))

    def progress(self, session: str) -> Progress:
        """How far a session is, read at one instant."""
        return self._progress(session, "")

    def watch(self, session: str, up_to: int | None = None) -> Progress:
        """How far a session is; and when it is as far as that, say so to who is subscribed.

        Once, on the channel that has the name of the session's hash, when every message up to
        number ``up_to`` (default: the newest) is settled. Nothing is announced if they are. What
        is published may be lost: whoever waits must also look by himself now and then.
        """
        return self._progress(session, up_to or 0)

    def _progress(self, session: str, watched: int | str) -> Progress:
        run = session_script("progress", reads=watched == "")
        keys = self.names.session(session)
        return Progress.parse(run(self.client, keys, (session, watched)))

    def renew(self, held: Sequence[tuple[str, str]]) -> list[bool]:
        """Extend the leases of (session, token) pairs; which of them are still held."""
        if not held:
            return []
        keys = [self.names.leases, *(self.names.session(session)[0] for session, _ in held)]
        arguments = [self.options.lease_ms, *(part for pair in held for part in pair)]
        return [bool(alive) for alive in script("renew")(self.client, keys, arguments)]

    def rescue(self, interval: float, grace: float) -> Help:
        """Find what needs help, unless another worker did within ``interval`` seconds.

        Sessions popped by a worker that died before its claim are queued again by the script
        itself once they were missing for ``grace`` seconds.
        """
        names = self.names
        lapsed, due, requeued = script("rescue")(
            self.client,
            [names.ready, names.leases, names.sleeping, names.run, names.meta],
            [int(interval * 1000), int(grace * 1000), SWEEP],
        )
        return Help(
            tuple(name.decode() for name in lapsed), tuple(name.decode() for name in due), requeued
        )

    def note_server(self, before: str | None = None) -> int:
        """Note which Redis process answers, after every (re)connection of worker or gateway.

        ``before``: run id of the one that the caller knew, if that was another.
        """
        run_id = str(self.client.info("server")["run_id"])
        if before is None or before == run_id:
            before = ""
        return int(script("epoch")(self.client, [self.names.meta], [run_id, before]))

    def give_back(self, entry: bytes | str) -> None:
        """Put a popped entry back where it was: the oldest of the run queue."""
        self.client.rpush(self.names.run, entry)

    def counters(self) -> dict[str, int]:
        """Counters of the deployment: accepted, written, retried, failed, ``dead:<reason>``, …"""
        found: Any = self.client.hgetall(self.names.stats)
        return {
            name.decode(errors="replace"): int(value)
            for name, value in found.items()
            if value.removeprefix(b"-").isdigit()
        }

    def dead_letters(self, count: int = 100) -> list[dict[str, str]]:
        """The newest dead letters, newest first, without their message."""
        entries: Any = self.client.xrevrange(self.names.dead, count=count)
        return [
            {"entry": entry.decode()}
            | {k.decode(): v.decode() for k, v in fields.items() if k != b"message"}
            | {"id": unquote(fields[b"id"].decode())}
            for entry, fields in entries
        ]

    def _commit(
        self, session: str, token: str, ids: Iterable[str], how: str, detail: int | str = ""
    ) -> bool:
        return bool(self._run("commit", session, token, how, detail, "", *map(quote_id, ids)) >= 0)

    def _run(self, name: str, session: str, *arguments: Any) -> Any:
        keys = self.names.session(session)
        return session_script(name)(self.client, keys, (session, *arguments))


def run_id_of(info: bytes) -> str:
    """The run id in an answer to ``INFO server``, before redis-py has made a mapping of it."""
    return next(
        line.partition(":")[2]
        for line in info.decode(errors="replace").split()
        if line.startswith("run_id:")
    )


def quote_id(id: str) -> str:
    """An id as scripts hold it: items and senders are separated by spaces. ``""`` stays."""
    return quote(id, safe=":")


def one_line(text: str) -> str:
    """A text as one line that is not too long to be kept, and that Redis can hold."""
    line = " ".join(text.split())
    return line[:LINE].encode(errors="replace").decode()


def _text(raw: bytes | None) -> str:
    return raw.decode() if raw else ""
