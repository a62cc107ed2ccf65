"""The state of sessions in Redis: one typed function for every script.

Each method is one script, and so one atomic change; the ``.lua`` file of the same name gives its
contract. All are safe to repeat, because redis-py repeats a command whose connection broke.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import redis

from hermes_tasks.transport.answers import (
    Claimed,
    Completed,
    Entry,
    Exchanged,
    Help,
    Outcome,
    Progress,
    PushAnswer,
    text_of,
)
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.scripts import exchange_script, script, session_script

#: Entries of the run queue above which a worker may have one reserved: nobody lacks work now, nor
#: will in the moment until it is claimed.
PLENTY = 16
#: Session ids in one answer of ``rescue``: a bound on what one sweep does, not on what is found.
SWEEP = 200
#: Most characters in a line of a trace, and of a dead letter's detail.
LINE = 300


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
        return None if answer == -1 else text_of(answer)

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
        full: bool = True,
        plenty: int | None = PLENTY,
    ) -> Exchanged:
        """End a claim as :meth:`complete` does, and take what is next.

        Args:
            session, token, outcome, id, written: as of :meth:`complete`.
            reserved: the entry that the last exchange reserved.
            fresh, worker: token and worker of the claim of that.
            unless: lists that come first; while one of them is not empty, nothing is taken.
            full: all slots of the worker were taken. One with others waits for the run queue, as
                others may: it does not take back what it ends if nothing else was there.
            plenty: entries on the run queue above which another is reserved; ``None``: none is.
        """
        ending = (session, *self._complete_arguments(token, outcome, id, written))
        keys = self.names.session(session)
        claiming: tuple[Any, ...] = ()
        if reserved is not None:
            keys = (*keys, *self.names.own(reserved.session))
            claiming = (reserved.session, *self._claim_arguments(reserved.number, fresh, worker))
        ended, claimed, entry, ahead = exchange_script()(
            self.client,
            (*keys, *unless),
            ("" if plenty is None else plenty, int(full), len(ending), *ending, *claiming),
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
        script("give_back")(self.client, [self.names.run, self.names.meta], [entry])

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
