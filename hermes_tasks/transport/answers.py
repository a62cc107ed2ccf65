"""What scripts are told and what they answer, as values of Python.

Each class reads the answer of a script as :mod:`.sessions` gets it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self
from urllib.parse import unquote


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
        token: the fencing token, made by the worker: what Redis counts repeats after a rollback.
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
        return cls(state.decode(), unquote(text_of(id)), text_of(trace))


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
            text_of(trace),
        )


@dataclass(frozen=True, slots=True)
class Help:
    """What a sweep found: lapsed leases, due sleepers, and how many sessions were requeued."""

    lapsed: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    requeued: int = 0


def text_of(raw: bytes | None) -> str:
    """A text of an answer; ``""`` where there is none."""
    return raw.decode() if raw else ""
