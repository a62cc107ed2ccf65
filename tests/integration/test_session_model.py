"""The session scripts against invariants and a model, under whatever hypothesis thinks of.

Every script runs as it is, on a real server, but for two things: its clock is a key that the test
sets, because leases, sleepers and grace must pass at will, and the clock must also step back; and
what it publishes is put into a list, where nothing is missed.

``SessionMachine`` keeps a ledger of what Redis *answered* and asks after every step whether the
invariants of the design hold on what Redis *holds*. ``SteeredMachine`` adds an operator, and
``ModelMachine`` adds ``Model``, a second implementation of all scripts in Python, and wants every
answer to be the model's.

Holding sessions is left to whoever uses the transport; ``HOLD`` and ``RESUME`` are the least of it.

A machine that cannot fail proves nothing: each entry of ``BROKEN`` undoes one rule of a script, and
the invariants alone, without the model, must notice.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hermes_tasks.ops.overview import LAG_BOUNDS
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport import scripts
from hermes_tasks.transport.answers import (
    Claimed,
    Completed,
    Doubt,
    Entry,
    Exchanged,
    Help,
    Item,
    Outcome,
    PushAnswer,
)
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.reading import unsettled
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.steering import Dropped, Steering, Woken
from tests.integration.hunting import seed_decides

only_valkey = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

#: Names whose keys would meet if names were put into keys as they are.
SESSIONS = ("ü %3A\n", "ü %3A\n:ids")
OPTIONS = SessionOptions(
    lease=10,
    waiting_limit=3,
    backlog_limit=2,
    batch_messages=3,
    batch_size=5,
    max_attempts=3,
    retry_first=1,
    retry_longest=3,
    landing=25,
)
#: Fields of the hash of an idle session.
REMEMBERED = {
    "accepted",
    "settled",
    "written",
    "rewritten",
    "epoch",
    "senders",
    "buried",
    "given_up",
}
INTERVAL, GRACE = 0.25, 3.0
LANDING = OPTIONS.landing_ms
REWRITTEN = 16
START = 1_800_000_000_000

# -- the clock, and scripts with a rule undone ----------------------------------------------------

Edits = Mapping[str, Sequence[tuple[str, str]]]

CLOCK = "clock"
_TIME = "redis.call('TIME')"
_TEST_TIME = f"redis.call('HMGET', '{CLOCK}', 's', 'us')"
ANNOUNCED = "announced"
_PUBLISH = "redis.pcall('PUBLISH', SESSION, '')"
_TEST_PUBLISH = f"redis.call('RPUSH', '{ANNOUNCED}', SESSION)"


@contextmanager
def edited_scripts(edits: Edits) -> Iterator[None]:
    """All scripts on the test's clock, with texts replaced; each must be there exactly once."""
    original = scripts._text

    def edited(name: str, package: str = scripts.__package__) -> str:
        text = original(name, package)
        for old, new in edits.get(name, ()):
            if text.count(old) != 1:  # not an AssertionError, which would be taken for a find
                raise LookupError(f"{name}.lua has changed: {old!r}")
            text = text.replace(old, new)
        return text.replace(_TIME, _TEST_TIME).replace(_PUBLISH, _TEST_PUBLISH)

    def forget() -> None:
        scripts.script.cache_clear()
        scripts.session_script.cache_clear()

    scripts._text = edited
    forget()
    try:
        yield
    finally:
        scripts._text = original
        forget()


def set_clock(client: redis.Redis, now: int) -> None:
    client.hset(CLOCK, mapping={"s": now // 1000, "us": now % 1000 * 1000})


#: hold: let a leased session wait, in a list of those held. KEYS[15] the list; ARGV session, token.
HOLD = """
if redis.call('HGET', SESSION, 'token') ~= ARGV[2] then return 0 end
allow_full_memory()
redis.call('RPUSH', KEYS[SESSION_KEYS + 1], ARGV[1])
hold(ARGV[1], 'the test says so', now_ms())
return 1
"""
#: resume: let a held session go on. KEYS[15] the list; ARGV session.
RESUME = """
redis.call('LREM', KEYS[SESSION_KEYS + 1], 1, ARGV[1])
return go_on(ARGV[1], now_ms()) and 1 or 0
"""


class HoldingStore(SessionStore):
    """Sessions, and a list of those held; steered by an operator."""

    @property
    def held(self) -> str:
        return self.names.key("held")

    def hold(self, session: str, token: str) -> bool:
        return self._run_text(HOLD, session, token)

    def resume(self, session: str) -> bool:
        return self._run_text(RESUME, session)

    def pause(self, session: str) -> str:
        return Steering(self).pause(session)

    def unpause(self, session: str) -> str | None:
        return Steering(self).resume(session)

    def drop(self, session: str) -> Dropped:
        return Steering(self).drop(session)

    def rouse(self, session: str) -> Woken:
        return Steering(self).wake(session)

    def _run_text(self, text: str, *arguments: str) -> bool:
        script = scripts.Script(scripts._text("common") + text)
        keys = (*self.names.session(arguments[0]), self.held)
        return bool(script(self.client, keys, arguments))


# -- what Redis holds -----------------------------------------------------------------------------


@dataclass
class Held:
    """One session as it is in Redis."""

    fields: dict[str, str]
    lists: dict[str, list[Item]]
    ids: set[str]
    ttl: int
    ready: float | None
    lease: float | None
    sleeping: float | None
    held: int
    lagging: float | None
    paused: float | None

    @property
    def state(self) -> str:
        return self.fields.get("state", "idle")

    @property
    def items(self) -> list[Item]:
        """All items, oldest first if order is kept."""
        return [*self.lists["inflight"], *self.lists["backlog"], *self.lists["waiting"]]

    @property
    def queued(self) -> dict[int, str]:
        return {item.number: item.id for item in self.items}


def look(store: HoldingStore, session: str) -> Held:
    names = store.names
    base, *lists, ids = names.session(session)[:5]
    pipe: Any = store.client.pipeline(transaction=False)
    pipe.hgetall(base)
    for key in lists:
        pipe.lrange(key, 0, -1)
    pipe.smembers(ids).pttl(base)
    for key in (names.ready, names.leases, names.sleeping, names.lagging, names.paused):
        pipe.zscore(key, session)
    pipe.lrange(store.held, 0, -1)
    fields, inflight, waiting, backlog, members, ttl, *scores, held = pipe.execute()
    ready, lease, sleeping, lagging, paused = scores
    return Held(
        {name.decode(): value.decode() for name, value in fields.items()},
        {
            "inflight": [Item.parse(raw) for raw in inflight],
            "waiting": [Item.parse(raw) for raw in waiting],
            "backlog": [Item.parse(raw) for raw in backlog],
        },
        {unquote(member.decode()) for member in members},
        ttl,
        ready,
        lease,
        sleeping,
        held.count(session.encode()),
        lagging,
        paused,
    )


# -- the model ------------------------------------------------------------------------------------


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
        plenty: int,
    ) -> tuple[Completed, Claimed | None, Any, Any]:
        """Its last two as the run queue has them, not as bytes."""
        completed = self.complete(name, token, outcome, id, written)
        claimed = None
        if reserved is not None:
            claimed = self.claim(reserved.session, reserved.number, fresh, worker)
        entry = self.run.pop() if claimed is None and self.run else None
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


# -- the machine ----------------------------------------------------------------------------------


@dataclass
class Book:
    """The ledger of one session: what Redis said it did."""

    accepted: dict[int, str] = field(default_factory=dict)
    gone: dict[int, str] = field(default_factory=dict)  # number: written, dead, purged
    written: list[int] = field(default_factory=list)  # in the order it was said
    touched: set[int] = field(default_factory=set)  # a call for them may have gone out
    due: dict[int, int] = field(default_factory=dict)  # not to be delivered before
    since: dict[int, int] = field(default_factory=dict)  # accepted, or due, at
    lands: dict[int, int] = field(default_factory=dict)  # a call for it may land until then
    asked: int = 0  # in vain since the latest call, as far as Redis was told
    rewritten: list[str] = field(default_factory=list)
    awaited: set[int] = field(default_factory=set)  # somebody waits for all up to these numbers
    paused: bool = False
    holder: str | None = None  # the token Redis last gave the session to, until it was given back


@dataclass
class Work:
    """A claim some worker believes in."""

    claim: Claimed
    began: bool = False

    @property
    def may_write(self) -> bool:
        """As Redis has it. It is not obeyed by those who write too early, but by a worker."""
        doubt = self.claim.doubt
        return doubt is None or doubt.until <= self.claim.now

    @property
    def session(self) -> str:
        return self.claim.session

    @property
    def token(self) -> str:
        return self.claim.token


any_session = st.sampled_from(SESSIONS)
some_delay = st.sampled_from([0, 0, 0, 0, 2, 8])
some_kind = st.sampled_from(["k", "k", "k", "k", "l", "-"])
some_sender = st.sampled_from(["-", "g", "g", "h", "i j", "k", "l"])


class SessionMachine(RuleBasedStateMachine):
    """Pushers, workers that die, keepers and a clock, against the invariants."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.store = HoldingStore(self.client, options=OPTIONS)
        self.now = START
        set_clock(self.client, self.now)
        self.serial = itertools.count(1)
        self.books = {name: Book() for name in SESSIONS}
        self.sent: dict[tuple[str, str], int] = {}
        self.popped: list[tuple[int, str]] = []
        self.work: list[Work] = []
        self.twice = 0
        self.note_process("the first")

    def note_process(self, run_id: str) -> None:
        scripts.script("epoch")(self.client, [self.store.names.meta], [run_id])

    # What the subclass adds to.

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.store, name)(*args, **kwargs)

    def moved_run_queue(self, change: Callable[[list[Any]], Any]) -> None:
        """The test itself changed the run queue."""

    def moved_clock(self) -> None:
        """The test moved the clock."""

    def noted_epoch(self) -> None:
        """Another Redis process answers."""

    # -- pushing ---------------------------------------------------------------------------------

    def _push(self, session: str, id: str, **options: Any) -> PushAnswer:
        book, text = self.books[session], f"text of {id}\n"
        answer: PushAnswer = self.call("push", session, text, id=id, **options)
        if answer.status == "accepted":
            assert answer.number == max(book.accepted, default=0) + 1
            book.accepted[answer.number] = id
            book.since[answer.number] = self.now + options.get("delay", 0) * 1000
            if options.get("delay"):
                book.due[answer.number] = book.since[answer.number]
            for lost in answer.dropped:
                oldest = min(number for number in book.accepted if number not in book.gone)
                inflight = [item.number for item in look(self.store, session).lists["inflight"]]
                waiting = [n for n in book.accepted if n not in book.gone and n not in inflight]
                assert book.accepted[waiting[0]] == lost, "not the oldest waiting was given up"
                assert oldest <= waiting[0]
                book.gone[waiting[0]] = "dead"
        return answer

    @rule(
        session=any_session,
        size=st.sampled_from([1, 1, 1, 2, 3, 6]),
        kind=some_kind,
        delay=some_delay,
        sender=some_sender,
        skip=st.sampled_from([False, False, False, True]),
        count=st.integers(1, 4),
    )
    def push(
        self,
        session: str,
        size: int,
        kind: str,
        delay: float,
        sender: str,
        skip: bool,
        count: int,
    ) -> None:
        for _ in range(count):
            self._push_new(session, sender, skip, size=size, kind=kind, delay=delay)

    def _push_new(self, session: str, sender: str, skip: bool, **options: Any) -> None:
        number = next(self.serial)
        if sender != "-":
            previous = self.sent.get((session, sender))
            missing = number if skip and previous else previous
            options |= {"sender": sender, "sent": number + 1, "previous": missing}
        answer = self._push(session, f"{number} %\n ü", **options)
        assert answer.status in ("accepted", "gap")
        if answer.status == "gap":
            assert skip, "nothing of this sender is missing"
        elif sender != "-":
            self.sent[session, sender] = number + 1

    @rule(session=any_session, data=st.data(), sender=some_sender, sent=st.integers(0, 30))
    def push_again(self, session: str, data: st.DataObject, sender: str, sent: int) -> None:
        known = self.books[session].accepted
        if not known:
            return
        number = data.draw(st.sampled_from(sorted(known)))
        queued = look(self.store, session).queued
        answer = self._push(session, known[number], kind="k", sender=sender, sent=sent)
        assert answer.status == "duplicate" or known[number] not in queued.values()
        if answer.status == "accepted":
            # Were the sender forgotten, this is now all Redis knows of it.
            self.sent.pop((session, sender), None)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), delay=some_delay)
    def retry(self, data: st.DataObject, delay: float) -> None:
        work = data.draw(st.sampled_from(self.work))
        book, before = self.books[work.session], look(self.store, work.session)
        head = work.claim.items[0].id
        answer = self._push(work.session, head, kind="k", delay=delay, token=work.token)
        assert answer.status == ("retried" if book.holder == work.token else "stale")
        after = look(self.store, work.session)
        assert after.queued == before.queued, "a retry added or removed a message"

    # -- working ---------------------------------------------------------------------------------

    def pop(self) -> None:
        entry: Any = self.client.rpop(self.store.names.run)
        if entry is None:
            return
        self.moved_run_queue(list.pop)
        try:
            number, session = json.loads(entry)
        except ValueError:
            return
        self.popped.append((int(number), session))

    @rule(slower_than_the_grace=st.booleans())
    def pop_and_be_slow_or_die(self, slower_than_the_grace: bool) -> None:
        self.pop()
        if slower_than_the_grace:
            self.pass_time_and_sweep(GRACE + 1)
            self.pass_time_and_sweep(GRACE + 1)
            self.pop()

    def give_back(self) -> None:
        if not self.popped:
            return
        number, session = self.popped.pop()
        self.store.give_back(json.dumps([str(number), session]))
        self.moved_run_queue(lambda run: run.append([str(number), session]))

    @precondition(lambda self: self.popped)
    @rule(data=st.data())
    def claim_late(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.popped))
        self.popped.remove(entry)
        self._claim(entry[1], entry[0], f"t{next(self.serial)}")

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def claim_again_with_the_same_token(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        number = look(self.store, work.session).fields.get("since", "0")
        if self.books[work.session].holder != work.token:
            number = "0"
        self._claim(work.session, int(number), work.token)

    @rule(count=st.integers(1, 3))
    def work_on_the_next_sessions(self, count: int) -> None:
        for _ in range(count):
            self.pop()
            if self.popped:
                number, session = self.popped.pop()
                self._claim(session, number, f"t{next(self.serial)}")

    def _claim(self, session: str, number: int, token: str) -> Claimed | None:
        before = look(self.store, session)
        claim: Claimed | None = self.call("claim", session, number, token, "worker")
        self._claimed(session, token, before, claim)
        return claim

    def _claimed(self, session: str, token: str, before: Held, claim: Claimed | None) -> None:
        if claim is None:
            return
        book = self.books[session]
        assert book.holder in (None, token), "two workers hold the session"
        assert book.holder == token or not book.paused, "a paused session is worked on"
        book.holder = token
        numbers = [item.number for item in claim.items]
        assert numbers == sorted(before.queued)[: len(numbers)], "a batch is not the oldest"
        had = {item.number for item in before.lists["inflight"]}
        for number in set(numbers) - had:
            assert book.due.get(number, 0) <= self.now, "delivered before its time"
        assert all(item.accepted == book.since[item.number] for item in claim.items)
        doubt = claim.doubt
        for number in numbers:
            if number in book.touched:
                assert doubt is not None, "a call for it may have gone out, and nobody would ask"
                assert number <= doubt.last, "a call for it may have gone out, and nobody would ask"
            if number in book.lands:
                assert doubt is not None
                assert doubt.until > 0, "a call was never answered, and one question would do"
                assert doubt.until >= min(book.lands[number], claim.now), "a call may still land"
                assert doubt.asked <= book.asked, "written after too few questions"
        assert claim.rewritten == tuple(book.rewritten)
        others = [work for work in self.work if work.token != token]
        self.work = [*others[-5:], Work(claim)]

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        last = data.draw(st.sampled_from(work.claim.items)).number
        self._begin(work, last)

    def _begin(self, work: Work, last: int) -> None:
        if not work.may_write:
            self._wait(work)
            return
        book = self.books[work.session]
        numbers = [item.number for item in work.claim.items if item.number <= last]
        began = self.call("begin", work.session, work.token, numbers[0], numbers[-1])
        assert began == (book.holder == work.token), "the fence of begin"
        if began:
            work.began = True
            book.asked = 0
            book.touched |= set(numbers)
            book.lands |= dict.fromkeys(numbers, self.now + LANDING)

    def _wait(self, work: Work) -> None:
        """What was asked for is not there, and an earlier call may still land."""
        book, doubt = self.books[work.session], work.claim.doubt
        assert doubt is not None
        waits = self.call("wait", work.session, work.token, doubt.first, doubt.last, doubt.until)
        assert waits == (book.holder == work.token), "the fence of wait"
        if waits:
            book.holder, book.asked = None, 1
            after = look(self.store, work.session)
            wakes = after.fields.get("due") if book.paused else after.sleeping
            assert wakes is not None
            assert int(wakes) == doubt.until

    @staticmethod
    def _answered(book: Book) -> None:
        """A call was; it had begun when none before it could land any more."""
        book.lands.clear()

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        self._commit(work, data.draw(st.integers(0, len(work.claim.items))))

    def _commit(self, work: Work, count: int) -> None:
        book, items = self.books[work.session], work.claim.items[:count]
        ids, doubt = [item.id for item in items], work.claim.doubt
        if not work.began:  # they were found
            settled = self.call("commit_found", work.session, work.token, ids)
        else:
            doubtful = doubt.last if doubt is not None and doubt.until else 0
            settled = self.call("commit", work.session, work.token, ids, doubtful=doubtful)
            if settled:
                fresh = [item for item in items if item.number not in book.gone]
                rewritten = [item.id for item in fresh if item.number <= doubtful]
                book.rewritten = (book.rewritten + rewritten)[-REWRITTEN:]
                if fresh:
                    self._answered(book)
        assert settled == (book.holder == work.token), "the fence of commit"
        if settled:
            for item in items:
                self._written(book, item.number)

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def find_twice(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        book, head = self.books[work.session], work.claim.items[0]
        twice = data.draw(st.lists(st.sampled_from([head.id, *book.rewritten]), unique=True))
        held = self.call("commit_found", work.session, work.token, [], twice)
        assert held == (book.holder == work.token), "the fence of commit"
        if not held:
            return
        self.twice += len(set(twice) & set(book.rewritten))
        book.rewritten = [id for id in book.rewritten if id not in twice]
        if head.id in twice and head.number not in book.gone:
            self.twice += 1
            self._written(book, head.number)

    def _written(self, book: Book, number: int) -> None:
        if number in book.gone:
            return
        assert number > max(book.written, default=0), "written out of order"
        book.written.append(number)
        book.gone[number] = "written"

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        item = data.draw(st.sampled_from(work.claim.items))
        self._bury(work, item, in_doubt=not work.began or data.draw(st.booleans()))

    def _bury(self, work: Work, item: Item, *, in_doubt: bool) -> None:
        book = self.books[work.session]
        trace = self.call(
            "bury", work.session, work.token, item.id, reason="poison", in_doubt=in_doubt
        )
        assert (trace is not None) == (book.holder == work.token), "the fence of commit"
        if trace is not None:
            book.gone.setdefault(item.number, "dead")
            if not in_doubt:
                self._answered(book)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), outcome=st.sampled_from(sorted(set(Outcome) - {Outcome.LAPSED})))
    def complete(self, data: st.DataObject, outcome: Outcome) -> None:
        work = data.draw(st.sampled_from(self.work))
        if outcome is Outcome.WRITTEN and work.claim.doubt is None:
            self._write(work, data.draw(st.integers(0, len(work.claim.items))))
        else:
            self.work.remove(work)
            self._complete(work.session, work.token, outcome, work.claim.items[0].id)

    @rule(fewer=st.sampled_from([0, 0, 0, 1]))
    def write_the_next_batch(self, fewer: int) -> None:
        self.work_on_the_next_sessions(1)
        if self.work and self.work[-1].claim.doubt is None:
            self._write(self.work[-1], len(self.work[-1].claim.items) - fewer)

    def _write(self, work: Work, count: int) -> None:
        """As a worker that is well: the acknowledgement says what its call has written."""
        if not work.began:
            self._begin(work, work.claim.items[-1].number)
        self.work.remove(work)
        written = [item.id for item in work.claim.items[:count]]
        self._complete(work.session, work.token, Outcome.WRITTEN, work.claim.items[0].id, written)

    @rule(fewer=st.sampled_from([0, 0, 1]), ahead=st.booleans(), plenty=st.integers(0, 2))
    def exchange_for_the_next_batch(self, fewer: int, ahead: bool, plenty: int) -> None:
        self.work_on_the_next_sessions(1)
        if ahead:
            self.pop()
        if not self.work or self.work[-1].claim.doubt is not None:
            return
        work = self.work.pop()
        self._begin(work, work.claim.items[-1].number)
        if work.token != self.books[work.session].holder:
            return
        reserved = Entry(*self.popped.pop()) if ahead and self.popped else None
        written = [item.id for item in work.claim.items[: len(work.claim.items) - fewer]]
        before = look(self.store, work.session)
        there = None if reserved is None else look(self.store, reserved.session)
        token = f"t{next(self.serial)}"
        found: Exchanged = self.call(
            "exchange",
            work.session,
            work.token,
            Outcome.WRITTEN,
            work.claim.items[0].id,
            written=written,
            reserved=reserved,
            fresh=token,
            worker="worker",
            plenty=plenty,
        )
        done = found.completed
        self._completed(work.session, work.token, Outcome.WRITTEN, written, before, done)
        if reserved is not None and there is not None:
            self._claimed(reserved.session, token, there, found.claimed)
        for raw in (found.entry, found.reserved):
            with suppress(ValueError):
                if raw is not None:
                    self.popped.append(astuple(Entry.parse(raw)))

    def _complete(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        written: Sequence[str] = (),
    ) -> str:
        before = look(self.store, session)
        done: Completed = self.call("complete", session, token, outcome, id, written=written)
        return self._completed(session, token, outcome, written, before, done)

    def _completed(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        written: Sequence[str],
        before: Held,
        done: Completed,
    ) -> str:
        book, answer = self.books[session], done.state
        if outcome is Outcome.LAPSED:
            alive = before.lease is None or before.lease > self.now
            assert (answer == "lost") == alive
        else:
            assert (answer == "lost") == (book.holder != token), "the fence of complete"
        if answer == "lost":
            return answer
        book.holder = None
        after = look(self.store, session)
        assert after.state == answer or answer == "dead"
        missing = sorted(set(before.queued) - set(after.queued))
        front = sorted(before.queued)[: len(missing)]
        assert missing == front, "what is gone was not in front"
        if outcome is Outcome.WRITTEN:
            queued = [item.id for item in before.items]
            assert len(missing) >= sum(id in queued for id in written), "written, and still queued"
            if missing and written:
                self._answered(book)
        else:
            assert len(missing) <= 1, "more than the head is gone"
        for number in missing:
            if done.given_up:
                book.gone[number] = "dead"
            else:
                assert outcome in (Outcome.SETTLED, Outcome.WRITTEN)
                self._written(book, number)
        return answer

    @precondition(lambda self: self.work)
    @rule(data=st.data(), seconds=st.sampled_from([0, 2, 8]), most=st.sampled_from([1, 2, 9]))
    def postpone(self, data: st.DataObject, seconds: float, most: int) -> None:
        work = data.draw(st.sampled_from(self.work))
        in_doubt = not work.began or data.draw(st.booleans())
        self._postpone(work, seconds, most=most, in_doubt=in_doubt)

    def _postpone(self, work: Work, seconds: float, *, most: int, in_doubt: bool) -> None:
        done = self.call(
            "postpone",
            work.session,
            work.token,
            seconds,
            most=most,
            note="503",
            in_doubt=in_doubt,
        )
        book = self.books[work.session]
        assert done == (book.holder == work.token), "the fence of postpone"
        if done and not in_doubt:
            self._answered(book)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), lines=st.sampled_from([1, 1, 45]))
    def note(self, data: st.DataObject, lines: int) -> None:
        work = data.draw(st.sampled_from(self.work))
        for number in range(lines):
            done = self.call("note", work.session, work.token, f"line {number}")
            assert done == (self.books[work.session].holder == work.token), "the fence of note"

    @precondition(lambda self: self.work)
    @rule(data=st.data(), acknowledged=st.booleans())
    def hold(self, data: st.DataObject, acknowledged: bool) -> None:
        work = data.draw(st.sampled_from(self.work))
        book = self.books[work.session]
        held = self.call("hold", work.session, work.token)
        assert held == (book.holder == work.token), "the fence of hold"
        if held:
            book.holder = None
        if acknowledged:
            self.work.remove(work)
            answer = self._complete(work.session, work.token, Outcome.ENDED)
            assert answer == "lost", "an old token ended a claim"

    @rule(session=any_session)
    def resume_held(self, session: str) -> None:
        before = look(self.store, session)
        assert self.call("resume", session) == bool(before.held)

    @precondition(lambda self: self.work)
    @rule()
    def stall_until_others_have_the_sessions(self) -> None:
        self.pass_time(11)
        self.sweep()
        self.work_on_the_next_sessions(2)

    @precondition(lambda self: self.work)
    @rule(
        how=st.sampled_from(["ended", "postponed", "failed", "lapsed"]),
        then=st.sampled_from(["", "bury", "find"]),
    )
    def fail_in_doubt_and_try_again(self, how: str, then: str) -> None:
        work = self.work[-1]
        self._begin(work, work.claim.items[-1].number)
        if how == "postponed":
            self._postpone(work, 2, most=9, in_doubt=True)
        if how != "lapsed":
            outcome = Outcome.FAILED if how == "failed" else Outcome.ENDED
            self._complete(work.session, work.token, outcome, work.claim.items[0].id)
        self.stall_until_others_have_the_sessions()
        if then:  # with the head, and the next to have the session may still be in doubt
            again = self.work[-1]
            if then == "bury":
                self._bury(again, again.claim.items[0], in_doubt=True)
            else:
                self._commit(again, 1)
            self._complete(again.session, again.token, Outcome.ENDED)
            self.work_on_the_next_sessions(2)

    # -- what goes on by itself ------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        set_clock(self.client, self.now)
        for book in self.books.values():  # no call begins later than now, whatever now is
            book.lands = {n: min(lands, self.now + LANDING) for n, lands in book.lands.items()}
        self.moved_clock()

    @rule(seconds=st.sampled_from([0.1, 1, 3.5, 3.5, 11, 11, -1, -20, -100]))
    def pass_time_and_sweep(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.sweep()

    def sweep(self) -> None:
        """What a keeper does every quarter of a second."""
        found: Help = self.call("rescue", INTERVAL, GRACE)
        for session in found.lapsed:
            assert self._complete(session, "", Outcome.LAPSED) != "lost"
        for session in found.due:
            assert self.call("wake", session)

    @rule(session=any_session)
    def help_without_need(self, session: str) -> None:
        """Two keepers may have found the same session."""
        self.call("wake", session)
        self._complete(session, "", Outcome.LAPSED)

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        work = data.draw(st.lists(st.sampled_from(self.work), unique_by=id))
        alive = self.call("renew", [(w.session, w.token) for w in work])
        assert alive == [self.books[w.session].holder == w.token for w in work]

    @rule(session=any_session, less=st.integers(0, 4))
    def wait_until_all_is_settled(self, session: str, less: int) -> None:
        """``less``: another asked when so many messages fewer had been accepted."""
        book = self.books[session]
        newest = max(1, len(book.accepted))
        for up_to in dict.fromkeys([newest, max(1, newest - less)]):
            found = self.call("watch", session, None if up_to == newest else up_to)
            if found.first_unsettled is not None and found.first_unsettled <= up_to:
                book.awaited.add(up_to)

    @rule(
        session=any_session,
        what=st.sampled_from(
            ["give back", "purge", "purge run queue", "foreign entry", "new process"]
        ),
    )
    def something_rare(self, session: str, what: str) -> None:
        match what:
            case "give back":
                self.give_back()
            case "purge":
                self.purge(session)
            case "purge run queue":
                self.client.delete(self.store.names.run)
                self.moved_run_queue(list.clear)
            case "foreign entry":
                self.client.rpush(self.store.names.run, "not JSON")
                self.moved_run_queue(lambda run: run.append("not JSON"))
            case "new process":
                self.another_redis_process_answers()

    def purge(self, session: str) -> None:
        book, before = self.books[session], look(self.store, session)
        assert self.call("purge", session) == len(before.items) - len(before.lists["inflight"])
        for name in ("backlog", "waiting"):
            book.gone |= {item.number: "purged" for item in before.lists[name]}

    def another_redis_process_answers(self) -> None:
        self.note_process(f"r{next(self.serial)}")
        for book in self.books.values():
            book.touched |= set(book.accepted)
            book.lands |= dict.fromkeys(book.accepted, self.now + LANDING)
            book.asked = 0
        self.noted_epoch()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def every_session_is_sound(self) -> None:
        for session, book in self.books.items():
            held = look(self.store, session)
            if held.state != "leased" or held.lists["inflight"]:
                oldest = min(book.accepted.keys() - book.gone.keys(), default=0)
                assert held.lagging == book.since.get(oldest), "lags by the age of another"
            numbers = [item.number for item in held.items]
            assert numbers == sorted(set(numbers)), "numbers are not increasing"
            assert held.queued == {
                n: id for n, id in book.accepted.items() if n not in book.gone
            }, "a message is not in exactly one place"
            assert held.ids == {item.id for item in held.items}, "ids are not those in the lists"
            assert len(held.lists["waiting"]) <= OPTIONS.waiting_limit
            assert len(held.lists["backlog"]) <= OPTIONS.backlog_limit
            assert held.fields.get("accepted", "0") == str(len(book.accepted))
            assert held.fields.get("settled", "0") == str(len(book.gone))
            assert held.fields.get("written", "0") == str(max(book.written, default=0))
            rewritten = held.fields.get("rewritten", "").split()
            assert [unquote(id) for id in rewritten] == book.rewritten
            member_of = {
                state
                for state, score in (
                    ("ready", held.ready),
                    ("leased", held.lease),
                    ("sleeping", held.sleeping),
                    ("held", held.held or None),
                )
                if score is not None
            }
            assert held.held <= 1, "held twice"
            assert member_of == ({held.state} if held.state not in ("idle", "paused") else set())
            assert book.paused == ("paused" in held.fields) == (held.paused is not None)
            if held.state != "leased" and held.state != "held":
                assert book.paused == (held.state == "paused"), "paused, and yet going on"
            assert ("token" in held.fields) == (held.state == "leased")
            assert held.fields.get("token") == book.holder, "the lease changed hands in silence"
            if held.state == "idle":
                assert not held.items
                assert held.ttl > 0 or (held.ttl == -2 and not held.fields)
                assert not held.fields.keys() - REMEMBERED, "an idle session keeps what is over"
            else:
                assert held.ttl == -1, "a session with work is forgotten after a day"

    @invariant()
    def who_waits_is_told(self) -> None:
        told: Any = self.client.lpop(ANNOUNCED, 1000) or []
        for session, book in self.books.items():
            oldest = min(book.accepted.keys() - book.gone.keys(), default=sys.maxsize)
            done = [number for number in book.awaited if number < oldest]
            announced = told.count(self.store.names.channel(session).encode())
            assert announced == bool(done), "who waits is told at once, and once"
            if announced:  # and whoever waits for more looks again
                book.awaited.clear()

    @invariant()
    def the_counters_are_those_of_the_ledger(self) -> None:
        counters: Counter[str] = Counter(self.store.counters())
        gone = Counter(how for book in self.books.values() for how in book.gone.values())
        assert counters["accepted"] == sum(len(book.accepted) for book in self.books.values())
        assert counters["written"] == gone["written"]
        assert counters["purged"] == gone["purged"]
        assert counters["twice"] == self.twice
        buckets = sum(count for what, count in counters.items() if what.startswith("lag:"))
        assert buckets == gone["written"]
        held = [look(self.store, session) for session in self.books]
        assert counters["backlog"] == sum(len(one.lists["backlog"]) for one in held)
        assert unsettled(counters) == sum(len(one.items) for one in held)
        dead = sum(count for what, count in counters.items() if what.startswith("dead:"))
        assert dead == gone["dead"] == self.client.xlen(self.store.names.dead)

    def teardown(self) -> None:
        """No session is stuck: a few rounds of ordinary work drain all of them."""
        if sys.exc_info()[0] is None:
            self._drain()

    def _drain(self) -> None:
        self.popped.clear()
        self.work.clear()
        for _ in range(60):
            if all(look(self.store, session).state == "idle" for session in SESSIONS):
                break
            self.pass_time(120)
            self.sweep()
            for session in SESSIONS:
                self.resume_held(session)
            while self.client.llen(self.store.names.run):
                self.pop()
                while self.popped:
                    number, session = self.popped.pop()
                    claim = self._claim(session, number, f"t{next(self.serial)}")
                    if claim is not None:
                        self._begin(self.work[-1], claim.items[-1].number)
                        self._commit(self.work[-1], len(claim.items))
                        self._complete(session, claim.token, Outcome.ENDED, claim.items[0].id)
        for session, book in self.books.items():
            held = look(self.store, session)
            assert held.state == "idle", f"stuck as {held.state}"
            assert book.gone.keys() == book.accepted.keys(), "accepted and never settled"
        self.every_session_is_sound()


class SteeredMachine(SessionMachine):
    """The same, and an operator who pauses, drops and wakes: a machine of its own, because what
    breaks without one is found sooner without one.
    """

    operated = True

    @precondition(lambda self: self.operated)
    @rule(session=any_session, what=st.sampled_from(["pause", "unpause", "unpause"]))
    def pause_and_unpause(self, session: str, what: str) -> None:
        book, before = self.books[session], look(self.store, session)
        answer = self.call(what, session)
        after = look(self.store, session)
        assert after.queued == before.queued, "a pause added or removed a message"
        assert answer == (None if what == "unpause" and not book.paused else after.state)
        if before.state in ("leased", "held"):
            assert after.state == before.state, "a pause took a session from its holder"
        book.paused = what == "pause"

    @precondition(lambda self: self.operated and self.work)
    @rule(what=st.sampled_from(["pause, ended", "pause, failed", "pause, held", "drop", "rouse"]))
    def steer_what_a_worker_has(self, what: str) -> None:
        work = self.work[-1]
        session, token, id = work.session, work.token, work.claim.items[0].id
        match what.partition(", "):
            case "pause", _, "held":
                self.pause_and_unpause(session, "pause")
                if self.call("hold", session, token):
                    self.books[session].holder = None
                self.resume_held(session)
            case "pause", _, outcome:
                self.pause_and_unpause(session, "pause")
                self._complete(session, token, Outcome(outcome), id)
            case "drop", *_:
                self.drop_or_rouse(session, "drop")
            case _:
                self._begin(work, work.claim.items[-1].number)
                self._complete(session, token, Outcome.FAILED, id)
                self.drop_or_rouse(session, "rouse")

    @precondition(lambda self: self.operated)
    @rule(session=any_session, what=st.sampled_from(["drop", "rouse"]))
    def drop_or_rouse(self, session: str, what: str) -> None:
        book, before = self.books[session], look(self.store, session)
        answer = self.call(what, session)
        after = look(self.store, session)
        if what == "drop":
            kept = before.lists["inflight"] if before.state == "leased" else []
            assert after.items == kept, "not all is dropped that nobody has"
            assert answer.inflight == len(kept)
            book.gone |= dict.fromkeys(before.queued.keys() - after.queued.keys(), "dead")
        elif before.state == "sleeping" and after.state == "ready":
            for head in after.items[:1]:  # what it slept for may have been purged
                fresh = head not in after.lists["inflight"]
                due = book.due.get(head.number, 0)
                assert not fresh or due <= self.now, "roused before its time"
                assert book.lands.get(head.number, 0) <= self.now, "roused with a call in doubt"
        else:
            assert after.state == before.state

    def _drain(self) -> None:
        for session in SESSIONS:
            self.pause_and_unpause(session, "unpause")
        super()._drain()


class ModelMachine(SteeredMachine):
    """The same, with and without the operator, and every answer of Redis is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @initialize(operated=st.booleans())
    def choose_whether_somebody_steers(self, operated: bool) -> None:
        self.operated = operated

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        extra: tuple[float | None, ...] = ()
        if name in ("wake", "rouse"):
            extra = (look(self.store, args[0]).sleeping,)
        elif name == "unpause":
            due = look(self.store, args[0]).fields.get("due")
            extra = (None if due is None else int(due),)
        answer = super().call(name, *args, **kwargs)
        if name == "rescue":
            self._check_rescue(answer)
        elif name == "watch":
            self.model.watch(*args)
        elif name == "exchange":
            popped = (raw and _entry(raw) for raw in (answer.entry, answer.reserved))
            found = (answer.completed, answer.claimed, *popped)
            assert found == self.model.exchange(*args, **kwargs)
        else:
            expected = getattr(self.model, name)(*args, *extra, **kwargs)
            assert answer == expected, (name, answer, expected)
        return answer

    def _check_rescue(self, found: Help) -> None:
        requeued = self.model.requeue()
        if requeued is None:
            assert found == Help()
            return
        assert found.requeued == requeued
        now, sessions = self.now, self.model.sessions.items()
        assert set(found.lapsed) == {n for n, s in sessions if s.token and s.expiry <= now}
        due = {n for n in SESSIONS if 0 < (look(self.store, n).sleeping or 0) <= now}
        assert set(found.due) == due

    def moved_run_queue(self, change: Callable[[list[Any]], Any]) -> None:
        change(self.model.run)

    def moved_clock(self) -> None:
        self.model.now = self.now

    def noted_epoch(self) -> None:
        self.model.epoch += 1
        self.model.epoch_at = self.now

    @invariant()
    def redis_is_as_the_model(self) -> None:
        entries: Any = self.client.lrange(self.store.names.run, 0, -1)
        assert [_entry(raw) for raw in entries] == self.model.run
        counted = Counter(self.store.counters())
        counted.pop("backlog", None)  # which the invariants know better
        assert +counted == +self.model.counts
        lagging: Any = self.client.zrange(self.store.names.lagging, 0, -1, withscores=True)
        assert {name.decode(): since for name, since in lagging} == self.model.lagging
        for name in SESSIONS:
            session, held = self.model.sessions[name], look(self.store, name)
            progress = self.store.progress(name)
            queued = session.queued
            assert (progress.state, progress.accepted) == (session.state, session.accepted)
            assert progress.first_unsettled == (queued[0].number if queued else None)
            assert progress.attempts == session.attempts
            assert (progress.inflight, progress.waiting, progress.backlog) == (
                len(session.inflight),
                len(session.waiting),
                len(session.backlog),
            )
            assert held.items == [message.item for message in queued]
            watched = held.fields.get("watched")
            assert watched == (None if session.watched is None else str(session.watched))
            assert held.fields.get("trace", "") == text_of(session.trace)
            assert Doubt.parse(held.fields.get("intent", "").encode()) == session.intent
            if session.state == "leased":
                assert held.lease == session.expiry
            if session.state == "sleeping":
                low, high = (
                    session.wake_at
                    if isinstance(session.wake_at, tuple)
                    else (session.wake_at, session.wake_at)
                )
                assert progress.wake_at_ms is not None
                assert low <= progress.wake_at_ms <= high


def _entry(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode()


# -- the runs -------------------------------------------------------------------------------------

QUICK = settings(
    max_examples=40,
    stateful_step_count=50,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
#: Looks for a failure, the same way each time, and does not make it small. Many short hunts: one
#: long one explores around its first examples, and may find nothing for minutes.
HUNT = settings(QUICK, max_examples=40, phases=[Phase.generate], database=None)
#: Their seeds. The one that finds a mutation soon goes first, which is 2 for most.
HUNTS = range(30)
FOUND_SOON = {
    "a claim trusts what a rolled back Redis says": 11,
    "what a rolled back Redis forgot cannot land any more": 11,
    "a retry of the head forgets that the call before carried more": 11,
    "a dead letter ends what is in doubt": 12,
    "an answer to a question is one to the call before it": 12,
    "the questions before a call count after it": 21,
    "wait does not ask for the token": 12,
    "postpone does not ask for the token": 11,
    "who waits for less is not told": 12,
    "a claim that ends queues a session that is paused": 11,
    "a held session goes on though it is paused": 18,
    "a paused session goes to sleep": 25,
    "a drop takes what a worker has": 18,
    "a session is roused before the call has landed": 22,
}


def hunt(machine: type[SessionMachine], client: redis.Redis, mutation: str, edits: Edits) -> None:
    first = FOUND_SOON.get(mutation, 2)
    for number in sorted(HUNTS, key=lambda number: number != first):
        seeded = seed(number)(type(machine.__name__, (machine,), {}))
        with seed_decides():
            run(seeded, client, HUNT, edits)


def run(machine: type[SessionMachine], client: redis.Redis, how: settings, edits: Edits) -> None:
    bound = type(machine.__name__, (machine,), {"client": client})
    with edited_scripts(edits):
        run_state_machine_as_test(bound, settings=how)


def test_every_invariant_holds_and_every_answer_is_the_models(redis_client: redis.Redis) -> None:
    run(ModelMachine, redis_client, QUICK, {})


# -- a machine that cannot fail proves nothing ----------------------------------------------------

#: What is undone, and in which script. The invariants must notice each, without the model.
BROKEN: dict[str, Edits] = {
    "a retry is known by its id, not by its token": {
        "push": [
            (
                "redis.call('HGET', SESSION, 'token') ~= token then\n    count('stale')",
                "false then\n    count('stale')",
            ),
            (
                "if token ~= '' then",
                "if token ~= '' and parse(redis.call('LINDEX', INFLIGHT, 0) or '').id == id then",
            ),
        ]
    },
    "the bound is one too late": {"push": [("> tonumber(ARGV[8])", "> tonumber(ARGV[8]) + 1")]},
    "the newest overflows, not the oldest": {
        "push": [("redis.call('LPOP', WAITING)", "redis.call('RPOP', WAITING)")]
    },
    "the backlog is given up from its tail": {
        "push": [("redis.call('LPOP', BACKLOG)", "redis.call('RPOP', BACKLOG)")]
    },
    "a claim takes from waiting before the backlog": {
        "claim": [("ipairs({BACKLOG, WAITING})", "ipairs({WAITING, BACKLOG})")]
    },
    "a claim forgets the call before": {
        "claim": [("now, intent or '', forgotten", "now, '', forgotten")]
    },
    "a claim trusts what a rolled back Redis says": {
        "claim": [("if known ~= epoch then", "if false then")]
    },
    "what a rolled back Redis forgot cannot land any more": {
        "claim": [("tonumber(accepted), forgotten)", "tonumber(accepted), 0)")]
    },
    "a call that is given up cannot land any more": {"begin": [("now + tonumber(ARGV[4])", "now")]},
    "a retry of the head forgets that the call before carried more": {
        "common": [
            (
                "first, last = math.min(first, earlier_first), math.max(last, earlier_last)",
                "local _ = {earlier_first, earlier_last}",
            )
        ]
    },
    "a call that ended somehow was answered": {"postpone": [("ARGV[6] == '0'", "true")]},
    "a dead letter ends what is in doubt": {"commit": [("ARGV[5] == '0'", "true")]},
    "an answer to a question is one to the call before it": {
        "commit": [("intent and how == 'written'", "intent")]
    },
    "the questions before a call count after it": {
        "common": [
            (
                "lands, asked or 0)",
                "lands, asked or intent and select(4, parts_of(intent)) or 0)",
            )
        ]
    },
    "wait does not ask for the token": {
        "wait": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "a session wakes before the call has landed": {
        "wait": [("sleep_until(ARGV[1], lands)", "sleep_until(ARGV[1], lands - 1000)")]
    },
    "what an acknowledgement settles is not noted as written": {
        "complete": [("'written', ms(math.max(last", "'w', ms(math.max(last")]
    },
    "begin does not ask for the token": {
        "begin": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "commit does not ask for the token": {
        "commit": [("~= ARGV[2] then return -1", "== '' then return -1")]
    },
    "complete does not ask for the token": {
        "complete": [("~= token then\n  return {'lost'}", "== '' then\n  return {'lost'}")]
    },
    "a settled message leaves its id behind": {
        "common": [("redis.call('SREM', IDS, ", "redis.call('SREM', 'nothing', ")]
    },
    "an idle session is kept for ever": {
        "common": [("redis.call('PEXPIRE', SESSION, REMEMBER_MS)", "")]
    },
    "the lease outlives the claim": {"complete": [("redis.call('ZREM', LEASES, name)", "")]},
    "a woken session is not queued": {"wake": [("make_ready(ARGV[1])", "")]},
    "what was popped and never claimed stays away": {
        "rescue": [("for _, name in ipairs(lost) do", "for _, name in ipairs({}) do")]
    },
    "a purge keeps the ids": {"purge": [("redis.call('LRANGE', list, 0, -1)", "{}")]},
    "any entry gives the session, whoever has it": {
        "claim": [("state ~= 'ready' or number", "not state or number")]
    },
    "postpone does not ask for the token": {
        "postpone": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "note does not ask for the token": {
        "note": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "a push queues a session that is held": {
        "push": [
            ("if not state then\n  move_on", "if not state or state == 'held' then\n  move_on")
        ]
    },
    "a held session keeps its lease": {
        "common": [("  redis.call('ZREM', LEASES, name)\nend", "end")]
    },
    "a session is held, and its task has it as well": {
        "common": [("'HDEL', SESSION, 'token', 'worker'", "'HDEL', SESSION, 'worker'")]
    },
    "an acknowledgement ends what is held": {
        "complete": [("elseif holder ~= token then", "elseif holder and holder ~= token then")]
    },
    "a retry forgets when its message was accepted": {
        "push": [("item(head.number, head.since)", "item(head.number, now)")]
    },
    "who waits is not told of what is written": {
        "commit": [("announce(watched)\nif head_settled", "if head_settled")]
    },
    "who waits is not told of an overflow": {"push": [("    announce(watched)\n", "")]},
    "who waits is told too early": {"common": [("head.number <= tonumber(watched)", "false")]},
    "who waits for less is not told": {
        "progress": [("(not watched or tonumber(watched) > target)", "not watched")]
    },
    "a session that moves on lags as before": {
        "common": [("  set_lag(name, head)\n  return head", "  return head")]
    },
    "after an overflow a session lags as before": {"push": [("    refresh_lag(name)\n", "")]},
    "a backlog is counted and not worked off": {
        "claim": [("count('backlog', -#taken)", "count('backlog', 0)")]
    },
    "a session with work is forgotten after a day": {
        "push": [("  redis.call('PERSIST', SESSION)\n", "")]
    },
}


#: The same of what an operator does.
BROKEN_FOR_OPERATORS: dict[str, Edits] = {
    "a claim that ends queues a session that is paused": {
        "complete": [("paused = is_paused", "local _ = is_paused")]
    },
    "a paused session goes to sleep": {"common": [("if paused then return park(time) end", "")]},
    "a held session goes on though it is paused": {
        "common": [("  paused = is_paused\n", "  local _ = is_paused\n")]
    },
    "a pause without work is forgotten after a day": {
        "pause": [("  redis.call('PERSIST', SESSION)\n", "")]
    },
    "a drop takes what a worker has": {"drop": [("is_leased and {BACKLOG, WAITING} or {", "{")]},
    "a session is roused before the call has landed": {
        "rouse": [("if lands > wake then", "if false then")]
    },
}


@only_valkey
@pytest.mark.parametrize("mutation", BROKEN)
def test_the_invariants_notice_that(redis_client: redis.Redis, mutation: str) -> None:
    with pytest.raises((AssertionError, redis.ResponseError)):
        hunt(SessionMachine, redis_client, mutation, BROKEN[mutation])


@only_valkey
@pytest.mark.parametrize("mutation", BROKEN_FOR_OPERATORS)
def test_an_operator_makes_the_invariants_notice_that(
    redis_client: redis.Redis, mutation: str
) -> None:
    with pytest.raises((AssertionError, redis.ResponseError)):
        hunt(SteeredMachine, redis_client, mutation, BROKEN_FOR_OPERATORS[mutation])


# -- the counter-examples that forced a rule, and the rule undone ---------------------------------

RETRY_BY_ID = BROKEN["a retry is known by its id, not by its token"]
RESCUE_BY_TIME: Edits = {
    "common": [
        ("redis.call('ZADD', READY, number, name)", "redis.call('ZADD', READY, now_ms(), name)")
    ],
    "rescue": [
        ("'(' .. mark", "ms(now - tonumber(ARGV[2]))"),
        ("redis.call('ZADD', KEYS[1], number, name)", "redis.call('ZADD', KEYS[1], now, name)"),
    ],
}
CLAIM_BY_THE_NEWEST_NUMBER: Edits = {
    "claim": [("number < tonumber(since)", "number ~= tonumber(redis.call('ZSCORE', READY, name))")]
}


def entry_of(store: SessionStore) -> tuple[str, int]:
    """Pop the oldest run-queue entry, as arguments of ``claim``."""
    raw: Any = store.client.rpop(store.names.run)
    number, session = json.loads(raw)
    return session, int(number)


def work_off(store: SessionStore, token: str) -> list[str]:
    """Write one batch, as a worker does; the ids that reach the backend."""
    claim = store.claim(*entry_of(store), token, "worker")
    assert claim is not None
    written = [item.id for item in claim.items]
    assert store.commit(claim.session, token, written)
    store.complete(claim.session, token, Outcome.ENDED)
    return written


def written_with_a_retry_after_a_lost_lease(client: redis.Redis) -> list[str]:
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, START)
    store.push("s", "one", id="1", kind="k")
    store.push("s", "two", id="2", kind="l")
    slow = store.claim(*entry_of(store), "slow", "worker")
    assert slow is not None
    set_clock(client, START + OPTIONS.lease_ms + 1)
    store.complete("s", "", Outcome.LAPSED)
    written = work_off(store, "quick")
    store.push("s", "one", id=slow.items[0].id, kind="k", token=slow.token)
    while client.llen(store.names.run):
        written += work_off(store, f"later {len(written)}")
    return written


def rounds_until_found_after_the_clock_stepped_back(client: redis.Redis) -> int | None:
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, START)
    store.push("s", "one", id="1")
    entry_of(store)  # popped by a worker that dies
    now = START - 3_600_000
    for number in range(100):
        now += int(GRACE * 1000)
        set_clock(client, now)
        if store.rescue(INTERVAL, GRACE).requeued:
            return number
    return None


def claims_until_one_succeeds_on_a_slow_worker(client: redis.Redis) -> int | None:
    store = SessionStore(client, options=OPTIONS)
    now = START
    set_clock(client, now)
    store.push("s", "one", id="1")
    for number in range(1, 20):
        entry = entry_of(store)
        for _ in range(3):  # the worker needs longer for its claim than the grace
            now += int(GRACE * 1000)
            set_clock(client, now)
            store.rescue(INTERVAL, GRACE)
        if store.claim(*entry, "token", "worker"):
            return number
    return None


@only_valkey
def test_a_retry_whose_lease_ran_out_is_not_appended_to_what_others_wrote(
    redis_client: redis.Redis,
) -> None:
    with edited_scripts({}):
        assert written_with_a_retry_after_a_lost_lease(redis_client) == ["1", "2"]
    redis_client.flushdb()
    with edited_scripts(RETRY_BY_ID):
        assert written_with_a_retry_after_a_lost_lease(redis_client) == ["1", "2", "1"]


@only_valkey
def test_a_popped_session_is_found_though_the_clock_stepped_back(redis_client: redis.Redis) -> None:
    with edited_scripts({}):
        rounds = rounds_until_found_after_the_clock_stepped_back(redis_client)
        assert rounds is not None
        assert rounds <= 2
    redis_client.flushdb()
    with edited_scripts(RESCUE_BY_TIME):
        assert rounds_until_found_after_the_clock_stepped_back(redis_client) is None


@only_valkey
def test_a_worker_slower_than_the_grace_gets_its_claim(redis_client: redis.Redis) -> None:
    with edited_scripts({}):
        assert claims_until_one_succeeds_on_a_slow_worker(redis_client) == 1
    redis_client.flushdb()
    with edited_scripts(CLAIM_BY_THE_NEWEST_NUMBER):
        assert claims_until_one_succeeds_on_a_slow_worker(redis_client) is None
