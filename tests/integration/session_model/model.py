"""The session scripts once more, in Python."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hermes_tasks.ops.overview import LAG_BOUNDS
from hermes_tasks.transport.answers import (
    Claimed,
    Completed,
    Doubt,
    Entry,
    Item,
    Outcome,
    PushAnswer,
)
from hermes_tasks.transport.steering import Dropped, Woken
from tests.integration.session_model.store import (
    GRACE,
    INTERVAL,
    LANDING,
    OPTIONS,
    REWRITTEN,
    START,
)


@dataclass
class Message:
    number: int
    id: str
    text: str
    size: int
    kind: str
    since: int
    delayed: bool

    @property
    def not_before(self) -> int:
        return self.since if self.delayed else 0

    @property
    def item(self) -> Item:
        return Item(self.number, self.id, self.since, self.text.encode())


@dataclass
class ModelSession:
    """What the model knows of a session; ``since`` is its first run-queue number while ready."""

    accepted: int = 0
    inflight: list[Message] = field(default_factory=list)
    waiting: list[Message] = field(default_factory=list)
    backlog: list[Message] = field(default_factory=list)
    state: str = "idle"
    since: int = 0
    token: str | None = None
    expiry: int = 0
    wake_at: int | tuple[float, float] = 0
    attempts: int = 0
    most: int | None = None
    tries: int = 0
    trace: list[tuple[int, str]] = field(default_factory=list)
    progress: bool = False
    wake: int | None = None
    noted: bool = False
    intent: Doubt | None = None
    epoch: int = 0
    written: int = 0
    rewritten: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    senders: list[tuple[str, int, str]] = field(default_factory=list)
    watched: int | None = None
    paused: bool = False

    @property
    def queued(self) -> list[Message]:
        return self.inflight + self.backlog + self.waiting

    def add_trace(self, now: int, text: str) -> None:
        self.trace.append((now, text))
        if len(self.trace) > 40:
            del self.trace[10]

    def record_intent(self, first: int, last: int, until: int, asked: int = 0) -> None:
        if self.intent is not None:
            first, last = min(first, self.intent.first), max(last, self.intent.last)
            until = max(until, self.intent.until)
        self.intent = Doubt(first, last, until, asked)

    def resolve_intent(self, number: int) -> None:
        """``number``: of the next message, or a lower bound of it."""
        if self.intent is not None and number > self.intent.last:
            self.intent = None

    def answer_intent(self) -> None:
        if self.intent is not None:
            self.intent = replace(self.intent, until=0, asked=0)

    def forget_head(self) -> None:
        self.attempts, self.most, self.tries, self.trace = 0, None, 0, []


class Model:
    """All session scripts in Python, of one deployment."""

    def __init__(self) -> None:
        self.now = START
        self.sessions: dict[str, ModelSession] = defaultdict(ModelSession)
        self.run: list[Any] = []  # newest first
        self.ready: dict[str, int] = {}
        self.lagging: dict[str, int] = {}
        self.number = 0
        self.epoch = 0
        self.epoch_at: int | None = None
        self.mark: tuple[int, int] | None = None
        self.swept: int | None = None
        self.counts: Counter[str] = Counter()
        self.dead: list[tuple[str, str, str]] = []

    # What several scripts do.

    def _bury(self, name: str, message: Message, reason: str) -> None:
        self.dead.append((name, message.id, reason))
        self.counts[f"dead:{reason}"] += 1
        given_up = self.sessions[name].given_up
        given_up[:] = [message.id, *(id for id in given_up if id != message.id)][:16]

    def _written(self, name: str, message: Message) -> None:
        session, age = self.sessions[name], max(0, self.now - message.since)
        session.written = max(session.written, message.number)
        bucket = next((bound for bound in LAG_BOUNDS if age <= bound), "inf")
        self.counts += Counter({"written": 1, f"lag:{bucket}": 1, "lag_sum": age})

    def _refresh_lag(self, name: str) -> None:
        self.lagging.pop(name, None)
        if queued := self.sessions[name].queued:
            self.lagging[name] = queued[0].since

    def _announce(self, name: str) -> None:
        session = self.sessions[name]
        watched, queued = session.watched, session.queued
        if watched is not None and not (queued and queued[0].number <= watched):
            session.watched = None

    def _queue(self, name: str) -> None:
        self.number += 1
        self.ready[name] = self.number
        self.run.insert(0, [str(self.number), name])

    def _make_ready(self, name: str) -> str:
        session = self.sessions[name]
        if session.paused:
            session.state = "paused"
            return "paused"
        self._queue(name)
        session.state, session.since = "ready", self.number
        return "ready"

    def _sleep(self, name: str, until: int | tuple[float, float]) -> str:
        session = self.sessions[name]
        session.state, session.wake_at = "paused" if session.paused else "sleeping", until
        return session.state

    def _move_on(self, name: str) -> str:
        session = self.sessions[name]
        self._refresh_lag(name)
        if not session.queued:
            session.state, session.intent = "paused" if session.paused else "idle", None
            session.forget_head()
            return session.state
        if session.queued[0].not_before > self.now:
            return self._sleep(name, session.queued[0].not_before)
        return self._make_ready(name)

    # The scripts.

    def push(
        self,
        name: str,
        text: str,
        *,
        id: str,
        size: int = 1,
        kind: str = "-",
        delay: float = 0,
        token: str = "",
        sender: str = "-",
        sent: int = 0,
        previous: int | None = None,
    ) -> PushAnswer:
        session, wait = self.sessions[name], int(delay * 1000)
        if token:
            if session.token != token:
                self.counts["stale"] += 1
                return PushAnswer("stale", 0)
            self.counts["retried"] += 1
            session.wake = self.now + wait
            session.most = 1
            if session.inflight and session.inflight[0].id == id:
                head = session.inflight[0]
                session.inflight[0] = Message(
                    head.number, id, text, size, kind, head.since, delayed=False
                )
                session.add_trace(self.now, f"retried, in {delay:.1f} s")
            return PushAnswer("retried", session.inflight[0].number if session.inflight else 0)
        known = {who: (number, last) for who, number, last in session.senders}
        given_up = sender != "-" and id in session.given_up
        if (
            given_up
            or id in [m.id for m in session.queued]
            or id in [last for _, last in known.values()]
        ):
            self.counts["duplicate"] += 1
            return PushAnswer("duplicate", 0)
        known_sender = sender in known
        number = known.pop(sender, (0, id))[0]
        if known_sender and previous is not None and number < previous:
            self.counts["gap"] += 1
            return PushAnswer("gap", 0)
        session.senders = [(sender, max(number, sent), id)]
        session.senders += [(who, *rest) for who, rest in known.items()][:3]
        if session.state == "idle":
            session.epoch = self.epoch
        session.accepted += 1
        self.counts["accepted"] += 1
        session.waiting.append(
            Message(session.accepted, id, text, size, kind, self.now + wait, wait > 0)
        )
        dropped: tuple[str, ...] = ()
        if len(session.waiting) > OPTIONS.waiting_limit:
            session.backlog.append(session.waiting.pop(0))
            if len(session.backlog) > OPTIONS.backlog_limit:
                lost = session.backlog.pop(0)
                self._bury(name, lost, "overflow")
                self._refresh_lag(name)
                self._announce(name)
                dropped = (lost.id,)
        if session.state == "idle":
            self._move_on(name)
        elif len(session.queued) == 1:
            self._refresh_lag(name)
        return PushAnswer("accepted", session.accepted, dropped)

    def claim(self, name: str, number: int, token: str, worker: str) -> Claimed | None:
        session = self.sessions[name]
        mine = session.token == token
        if not mine and (session.state != "ready" or number < session.since):
            return None
        most = min(OPTIONS.batch_messages, session.most or OPTIONS.batch_messages)
        most = 1 if session.attempts else most
        batch: list[Message] = []
        for message in session.queued:
            fresh = message not in session.inflight
            if fresh and message.not_before > self.now:
                break
            if batch and (
                len(batch) >= most
                or sum(m.size for m in batch) + message.size > OPTIONS.batch_size
                or message.kind != batch[0].kind
                or message.kind == "-"
            ):
                break
            batch.append(message)
        if not batch:
            if not mine:
                self.ready.pop(name)
                self._move_on(name)
            return None
        self.ready.pop(name, None)
        for message in batch:
            if message not in session.inflight:
                session.inflight.append(message)
                (session.backlog or session.waiting).remove(message)
        if mine:
            self._refresh_lag(name)
        session.resolve_intent(batch[0].number)
        if session.intent is not None:
            until = min(session.intent.until, self.now + LANDING)
            session.intent = replace(session.intent, until=until)
        forgotten = 0
        if self.epoch_at is not None:
            forgotten = min(self.epoch_at, self.now) + LANDING
            if session.epoch != self.epoch:
                session.epoch = self.epoch
                session.record_intent(batch[0].number, session.accepted, forgotten)
        session.progress, session.wake, session.noted = False, None, False
        session.state, session.token = "leased", token
        session.expiry = self.now + OPTIONS.lease_ms
        return Claimed(
            name,
            token,
            session.attempts,
            session.tries,
            self.now,
            tuple(message.item for message in batch),
            session.intent,
            forgotten if forgotten > self.now else 0,
            tuple(session.rewritten),
        )

    def begin(self, name: str, token: str, first: int, last: int) -> bool:
        session = self.sessions[name]
        if session.token != token:
            return False
        session.record_intent(first, last, self.now + LANDING)
        session.expiry = self.now + OPTIONS.lease_ms
        return True

    def commit(self, name: str, token: str, ids: Sequence[str], *, doubtful: int) -> bool:
        session = self.sessions[name]
        doubted = [m.id for m in session.inflight if m.id in ids and m.number <= doubtful]
        before = len(session.inflight)
        if self._settle(name, token, ids) is None:
            return False
        session.rewritten = (session.rewritten + doubted)[-REWRITTEN:]
        if len(session.inflight) < before:
            session.answer_intent()
        return True

    def commit_found(
        self, name: str, token: str, ids: Sequence[str], twice: Sequence[str] = ()
    ) -> bool:
        session = self.sessions[name]
        known = [*session.rewritten, *(message.id for message in session.inflight)]
        found = {message.id for message in session.inflight} & (set(ids) - set(twice))
        if self._settle(name, token, [*ids, *twice]) is None:
            return False
        self.counts["found"] += len(found)
        self.counts["twice"] += len(set(known) & set(twice))
        session.rewritten = [id for id in session.rewritten if id not in twice]
        return True

    def bury(self, name: str, token: str, id: str, *, reason: str, in_doubt: bool) -> str | None:
        session = self.sessions[name]
        if session.token == token and not in_doubt:
            session.answer_intent()
        return self._settle(name, token, [id], reason)

    def _settle(self, name: str, token: str, ids: Sequence[str], reason: str = "") -> str | None:
        session = self.sessions[name]
        if session.token != token:
            return None
        trace = ""
        if session.inflight and session.inflight[0].id in ids:
            trace = text_of(session.trace)
            session.tries, session.trace = 0, []
        settled = [m for m in session.inflight if m.id in ids]
        for message in settled:
            session.inflight.remove(message)
            session.progress = True
            if reason:
                self._bury(name, message, reason)
            else:
                self._written(name, message)
        if settled and session.inflight:
            self._refresh_lag(name)
        if settled:
            left = session.inflight or [replace(settled[-1], number=settled[-1].number + 1)]
            session.resolve_intent(left[0].number)
            self._announce(name)
        return trace

    def postpone(
        self,
        name: str,
        token: str,
        seconds: float,
        *,
        most: int = 1,
        note: str = "",
        in_doubt: bool = True,
    ) -> bool:
        session = self.sessions[name]
        if session.token != token:
            return False
        if not in_doubt:
            session.answer_intent()
        if session.wake is None:
            session.tries += 1
            self.counts["postponed"] += 1
            session.add_trace(self.now, note)
        session.wake, session.most = self.now + int(seconds * 1000), most
        return True

    def note(self, name: str, token: str, text: str) -> bool:
        session = self.sessions[name]
        if session.token != token:
            return False
        session.noted = True
        session.add_trace(self.now, text)
        return True

    def hold(self, name: str, token: str) -> bool:
        session = self.sessions[name]
        if session.token != token:
            return False
        self._let_go(name, "held: the test says so")
        session.state = "held"
        return True

    def wait(self, name: str, token: str, first: int, last: int, until: int) -> bool:
        session = self.sessions[name]
        if session.token != token:
            return False
        self._let_go(name, "held: an earlier call may still land")
        session.record_intent(first, last, until, asked=1)
        assert session.intent is not None
        self._sleep(name, session.intent.until)
        self.counts["awaited"] += 1
        return True

    def _let_go(self, name: str, why: str) -> None:
        session = self.sessions[name]
        if session.progress:
            session.attempts, session.most, session.tries = 0, None, 0
            self._refresh_lag(name)
        session.add_trace(self.now, why)
        session.token, session.wake, session.progress = None, None, False

    def resume(self, name: str) -> bool:
        session = self.sessions[name]
        if session.state != "held":
            return False
        self._make_ready(name) if session.inflight else self._move_on(name)
        return True

    def complete(
        self,
        name: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        written: Sequence[str] = (),
    ) -> Completed:
        given_up: list[str] = []
        state = self._complete(name, token, outcome, id, written, given_up)
        return Completed(state, *given_up)

    def exchange(
        self,
        name: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        *,
        written: Sequence[str],
        reserved: Entry | None,
        fresh: str,
        worker: str,
        full: bool,
        plenty: int,
    ) -> tuple[Completed, Claimed | None, Any, Any]:
        """Its last two as the run queue has them, not as bytes."""
        spare = full or bool(self.run)
        completed = self.complete(name, token, outcome, id, written)
        claimed = None
        if reserved is not None:
            claimed = self.claim(reserved.session, reserved.number, fresh, worker)
        entry = self.run.pop() if spare and claimed is None and self.run else None
        return completed, claimed, entry, self.run.pop() if len(self.run) > plenty else None

    def _complete(
        self,
        name: str,
        token: str,
        outcome: Outcome,
        id: str,
        written: Sequence[str],
        given_up: list[str],
    ) -> str:
        session = self.sessions[name]
        lapsed = outcome is Outcome.LAPSED
        if lapsed:
            if session.token is None or session.expiry > self.now:
                return "lost"
        elif session.token != token:
            return "lost"
        if outcome is Outcome.WRITTEN:
            front = list(itertools.takewhile(lambda m: m.id in written, session.inflight))
            if self._settle(name, token, [message.id for message in front]) is not None and front:
                session.answer_intent()
                session.forget_head()
        settles = outcome in (Outcome.SETTLED, Outcome.REVOKED, Outcome.EXPIRED)
        if settles and session.wake is None and session.inflight and session.inflight[0].id == id:
            head = session.inflight.pop(0)
            if outcome is Outcome.SETTLED:
                self._written(name, head)
            else:
                given_up += [head.id, text_of(session.trace)]
                self._bury(name, head, outcome.value)
            self._announce(name)
            if session.inflight:
                self._refresh_lag(name)
            session.progress = True
            session.forget_head()
            following = session.inflight[0].number if session.inflight else head.number + 1
            session.resolve_intent(following)
        wake, progress = session.wake, session.progress
        session.token, session.wake, session.progress = None, None, False
        if progress:
            session.attempts = 0
        if progress and (wake is None or lapsed):
            session.most = None
        if not session.inflight:
            session.forget_head()
            return self._move_on(name)
        if wake is not None and not lapsed:
            session.attempts = 0
            return self._sleep(name, wake)
        if progress or outcome is Outcome.RELEASED:
            return self._make_ready(name)
        session.attempts += 1
        self.counts["failed"] += 1
        if not session.noted:
            why = {Outcome.LAPSED: "lost its lease", Outcome.FAILED: "was rejected"}
            what = why.get(outcome, "settled nothing")
            session.add_trace(self.now, f"attempt {session.attempts} {what}")
        if session.attempts >= OPTIONS.max_attempts:
            given_up += [session.inflight[0].id, text_of(session.trace)]
            head = session.inflight.pop(0)
            self._bury(name, head, "attempts")
            if session.inflight:
                self._refresh_lag(name)
            self._announce(name)
            session.forget_head()
            following = session.inflight[0].number if session.inflight else head.number + 1
            session.resolve_intent(following)
            # What is in flight was due once, whatever the clock says now.
            self._make_ready(name) if session.inflight else self._move_on(name)
            return "dead"
        if lapsed:
            return self._make_ready(name)
        wait = 1000 * min(OPTIONS.retry_first * 2 ** (session.attempts - 1), OPTIONS.retry_longest)
        return self._sleep(name, (self.now + wait / 2 - 1, self.now + wait + 1))

    def wake(self, name: str, wake_at: float | None) -> bool:
        """``wake_at``: when it wakes, as Redis has it: a wait after a failure is random."""
        session = self.sessions[name]
        if session.state != "sleeping" or wake_at is None or wake_at > self.now:
            return False
        self._make_ready(name)
        return True

    def purge(self, name: str) -> int:
        session = self.sessions[name]
        dropped = len(session.waiting) + len(session.backlog)
        session.waiting.clear()
        session.backlog.clear()
        self.counts["purged"] += dropped
        if dropped:
            self._refresh_lag(name)
            self._announce(name)
        return dropped

    def pause(self, name: str) -> str:
        session = self.sessions[name]
        if session.state == "idle":
            session.epoch = self.epoch
        if not session.paused and session.state not in ("leased", "held"):
            session.state = "paused"
            self.ready.pop(name, None)
        session.paused = True
        return session.state

    def unpause(self, name: str, due: float | None) -> str | None:
        """``due``: when it would wake, as Redis has it."""
        session = self.sessions[name]
        if not session.paused:
            return None
        session.paused = False
        if session.state != "paused":
            return session.state
        if not session.inflight:
            return self._move_on(name)
        if due is not None and due > self.now:
            return self._sleep(name, int(due))
        return self._make_ready(name)

    def drop(self, name: str) -> Dropped:
        session, left = self.sessions[name], 0
        given_up = session.backlog + session.waiting
        if session.state == "leased":
            left = len(session.inflight)
        else:
            given_up = session.inflight + given_up
            session.inflight.clear()
        session.backlog.clear()
        session.waiting.clear()
        for message in given_up:
            self._bury(name, message, "dropped")
        if given_up and session.state != "leased":
            self.ready.pop(name, None)
            if session.state == "held":
                session.intent = None
                session.forget_head()
                self._refresh_lag(name)
            else:
                self._move_on(name)
        if given_up:
            self._announce(name)
        return Dropped(tuple(message.id for message in given_up), left)

    def rouse(self, name: str, wake_at: float | None) -> Woken:
        """``wake_at``: when it wakes, as Redis has it."""
        session, now = self.sessions[name], self.now
        if session.state != "sleeping" or wake_at is None:
            return Woken(session.state, None, "")
        at, why, lands = now, "", 0
        if session.queued:  # what it slept for may have been purged
            head = session.queued[0]
            if not session.inflight and head.not_before > now:
                at, why = head.not_before, "delayed"
            if session.intent is not None and head.number <= session.intent.last:
                lands = session.intent.until
        if self.epoch_at is not None and session.epoch != self.epoch:
            lands = max(lands, self.epoch_at + LANDING)
        if min(lands, now + LANDING) > at:
            at, why = min(lands, now + LANDING), "doubt"
        if at == now:
            return Woken(self._make_ready(name), None, "")
        session.wake_at = min(at, int(wake_at))
        return Woken("sleeping", (session.wake_at - now) / 1000, why)

    def watch(self, name: str, up_to: int | None) -> None:
        session = self.sessions[name]
        target = up_to or session.accepted
        if session.queued and session.queued[0].number <= target:
            session.watched = min(target, session.watched or target)

    def renew(self, held: Sequence[tuple[str, str]]) -> list[bool]:
        alive = [self.sessions[name].token == token for name, token in held]
        for (name, _), living in zip(held, alive, strict=True):
            if living:
                self.sessions[name].expiry = self.now + OPTIONS.lease_ms
        return alive

    def requeue(self) -> int | None:
        """The part of ``rescue`` about sessions missing on the run queue; ``None``: too soon."""
        if self.swept is not None and 0 <= self.now - self.swept < INTERVAL * 1000:
            return None
        self.swept = self.now
        lost: list[str] = []
        if self.mark is not None and 0 <= self.now - self.mark[1] < GRACE * 1000:
            return 0
        if self.mark is not None and self.mark[1] <= self.now:
            below = [(n, name) for name, n in self.ready.items() if n < self.mark[0]]
            lost = [name for _, name in sorted(below)]
            for name in lost:
                self._queue(name)
        entry = self.run[-1] if self.run else [str(self.number + 1), ""]
        mark = int(entry[0]) if isinstance(entry, list) else (self.mark or (0, 0))[0]
        self.mark = (mark, self.now)
        return len(lost)


def text_of(trace: list[tuple[int, str]]) -> str:
    return "".join(f"{when} {text}\n" for when, text in trace)
