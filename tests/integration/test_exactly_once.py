"""Everything between Redis and Honcho, on a clock of the test's own, and a plan to break it.

A :class:`World` has a gateway, workers and a Honcho, run one step at a time. The task, the writer,
the guard, the gate and every script are the product's, on a real Redis whose clock the test sets.
What is random, from one seed, is what happens to them: a call is answered, refused, cut, or applied
long after its worker has died; a worker dies before or after anything it says to Redis, or is
stopped while others go on; Redis forgets its last second. Honcho keeps to one promise only: a
call lands within ``LANDING`` seconds of its start, which is when Redis noted it.

In the end every part of every turn must be there once, and the turns in their order. A world that
cannot fail proves nothing: ``BROKEN`` undoes one rule at a time, and the worlds must notice.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from celery.exceptions import Ignore

from hermes_tasks import tasks
from hermes_tasks.app import TASK, make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import (
    DeadlineExceeded,
    HonchoError,
    Overloaded,
    RateLimited,
    Refused,
    Unreachable,
)
from hermes_tasks.gate import Gate, Policy
from hermes_tasks.guard import GatedLease
from hermes_tasks.honcho import writer as writer_module
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.honcho.writer import Writer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport.answers import Claimed, Outcome
from hermes_tasks.transport.check import repair
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.lease import SEND_WITHIN, BatchMessage, SessionLease
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.scripts import script
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.turns import Conclusion, Memory, Turn
from tests.integration.editing import CLOCK, Edits, edited_scripts, set_clock
from tests.integration.session_model.store import START

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

CEILING, LANDING = 5.0, 8.0
#: Messages in a call, so that a turn of ten takes three.
CALL_LIMIT = 4
#: Seconds of acceptances that Redis may forget, and that a gateway keeps its rows for.
FORGOTTEN, KEPT = 2.0, 5.0
OPTIONS = SessionOptions(
    lease=6,
    batch_messages=4,
    batch_size=6,
    retry_first=1,
    retry_longest=3,
    landing=LANDING,
)
#: Of a run, and turns in each.
WORLDS, TURNS = 8, 14
#: Seconds after which a turn whose call fails is given up; the operator retries it.
MAX_AGE = 15.0
SESSIONS = ("default:w:a", "default:w:b")
POISON = "poison"


class Died(BaseException):
    """A worker was killed, here and now. Nobody may catch it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the gateway's outbox."""

    number: int
    entry: Memory
    accepted_at: int = 0


@dataclass
class Gateway:
    """Pushes in order, and again what it cannot be sure of, as the publisher does."""

    rows: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    epoch: int = 0


class World:
    """One run. Times are ms, of one clock.

    Attributes:
        task: the product's, of this process.
        patient: nothing is given up but poison.
        crashes: share of steps that a crash of Redis begins with.
        largest: messages that a proxy lets through in one call.
    """

    task: Any = None

    def __init__(self, client: redis.Redis, seed: int) -> None:
        self.random = random.Random(seed)
        self.patient = self.random.random() < 0.5
        self.crashes = self.random.choice([0.0, 0.03, 0.15])
        options = replace(OPTIONS, max_attempts=10_000 if self.patient else 2)
        app = self.task.app
        patience = 1e6 if self.patient else MAX_AGE
        app.settings = app.settings.model_copy(update={"retry_max_age": patience})
        self.client = client
        self.now = START
        self.depth = 0
        self.faults = True
        self.landings: list[tuple[int, int, Callable[[], None]]] = []
        self.stored: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.concluded: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        self.largest = self.random.choice([1, 2, 3, 100, 100, 100])
        self.history: list[str] = []
        self._serial = itertools.count()
        self._run_ids = itertools.count(1)
        client.flushdb()
        set_clock(client, self.now)
        self.store = FaultyStore(client, Names("x"), options)
        self.store.world = self
        self.calm = SessionStore(client, Names("x"), options)
        self.policy = Policy(
            failures=self.random.choice([3, 10_000]),
            probe_seconds=2.0,
            probe_longest=4.0,
            floor=1.0,
            ceiling=CEILING,
            default=CEILING,
            warmup=3,
        )
        self.new_run_id()
        self.saved: tuple[int, list[tuple[bytes, bytes, int]]] | None = None
        self.gateway = Gateway()
        self.sent: dict[str, list[Memory]] = {session: [] for session in SESSIONS}
        for number in range(1, TURNS + 1):
            self._compose(number)
        self.leases: list[SessionLease] = []
        self.letters = DeadLetters(self.calm)
        self.retried = False

    def say(self, text: str) -> None:
        self.history.append(f"{(self.now - START) / 1000:8.2f} {'  ' * self.depth}{text}")

    # -- time ----------------------------------------------------------------------------------

    def advance(self, to: int) -> None:
        """Let time pass; what lands until then, lands in its moment."""
        while self.landings and self.landings[0][0] <= to:
            at, _, land = heapq.heappop(self.landings)
            self.now = max(self.now, at)
            land()
        self.now = max(self.now, to)
        set_clock(self.client, self.now)

    def later(self, at: int, land: Callable[[], None]) -> None:
        heapq.heappush(self.landings, (at, next(self._serial), land))

    def chance(self, share: float) -> bool:
        return self.faults and self.random.random() < share

    # -- the gateway ---------------------------------------------------------------------------

    def _compose(self, number: int) -> None:
        session = self.random.choice(SESSIONS)
        name, turn_id = session.rpartition(":")[2], f"{session[-1]}{number}"
        entry: Memory
        if self.random.random() < 0.25:
            said = self.random.choice(["likes tea", turn_id, turn_id, turn_id])
            entry = Conclusion.create("w", name, "hermes", "igor", said, turn_id=turn_id)
        else:
            size = self.random.choice([1, 1, 2, 3, 9, 10])
            contents = [f"{turn_id} {part}" for part in range(size)]
            if self.random.random() < 0.08:
                contents[self.random.randrange(size)] = POISON
            said_by = [{"peer": "igor", "content": content} for content in contents]
            entry = Turn.create("w", name, said_by, turn_id=turn_id)
        self.sent[session].append(entry)
        self.gateway.rows.append(Row(number, entry))

    def push(self) -> None:
        """Send the next row, as the publisher does after it has noted the server."""
        gateway = self.gateway
        epoch = self.note_server()
        if epoch == gateway.epoch:
            gateway.kept = [r for r in gateway.kept if self.now - r.accepted_at <= KEPT * 1000]
        else:
            gateway.epoch = epoch
            gateway.doubtful.update(row.number for row in gateway.kept)
            gateway.rows[:0], gateway.kept = gateway.kept, []
        if not gateway.rows:
            return
        row = gateway.rows[0]
        entry = replace(row.entry, ask=True) if row.number in gateway.doubtful else row.entry
        gateway.doubtful.add(row.number)
        answer = self.calm.push(
            entry.session_key,
            json.dumps(entry.to_json()),
            id=entry.turn_id,
            size=entry.size,
            kind="turn",
            sender="gateway",
            sent=row.number,
        )
        self.say(f"push {entry.turn_id} ({entry.kind} of {entry.size}): {answer}, ask={entry.ask}")
        if self.chance(0.1):
            return  # the answer was lost: it is sent again, and says so
        del gateway.rows[0]
        gateway.doubtful.discard(row.number)
        gateway.kept.append(replace(row, accepted_at=self.now))

    # -- Redis ---------------------------------------------------------------------------------

    def new_run_id(self) -> None:
        self.run_id = f"run-{next(self._run_ids)}"
        self.note_server()

    def note_server(self) -> int:
        return int(script("epoch")(self.client, [self.calm.names.meta], [self.run_id]))

    def save(self) -> None:
        """What of Redis is on its disk."""
        pipe: Any = self.client.pipeline(transaction=False)
        keys: Any = [key for key in self.client.keys("*") if key != CLOCK.encode()]
        for key in keys:
            pipe.dump(key).pttl(key)
        answers = pipe.execute()
        self.saved = self.now, list(zip(keys, answers[::2], answers[1::2], strict=True))

    def crash_redis(self) -> None:
        """Redis starts again, and has forgotten what came after it saved."""
        assert self.saved is not None
        at, keys = self.saved
        self.saved = None
        if self.now - at > FORGOTTEN * 1000:
            return
        self.say(f"REDIS forgets {self.now - at} ms")
        pipe: Any = self.client.pipeline(transaction=False)
        pipe.flushdb()
        for key, value, ttl in keys:
            pipe.restore(key, max(0, ttl), value)
        pipe.execute()
        set_clock(self.client, self.now)
        self.new_run_id()

    def retry_letters(self) -> None:
        """An operator puts back what was given up, unless Honcho refuses it."""
        letters = [letter for letter in self.letters.newest() if letter.reason != "poison"]
        for done in self.letters.retry(letters):
            self.retried = True
            self.say(f"retried {done.letter.id}: {done.answer} {done.number}, {done.wait:.2f} s")

    def repair(self) -> None:
        """An operator repairs what may be well."""
        session = self.random.choice(SESSIONS)
        done = repair(self.calm, session, [self.calm.names.gate("default:w")[1]])
        self.say(f"repaired {session}: {done}")

    # -- workers -------------------------------------------------------------------------------

    def keep(self) -> None:
        """A turn of some worker's keeper."""
        found = self.calm.rescue(0.0, 3.0)
        for session in found.lapsed:
            done = self.calm.complete(session, "", Outcome.LAPSED)
            self.say(f"lapsed {session}: {done.state}")
        for session in found.due:
            self.calm.wake(session)
        Gate(self.calm, self.policy, "default:w").release()

    def gate(self) -> Gate:
        gate = FaultyGate(self.calm, self.policy, "default:w")
        gate.world = self
        return gate

    def work(self) -> bool:
        """A worker takes a session from the run queue and runs its task. False: nothing to do."""
        popped: Any = self.client.rpop(self.calm.names.run)
        if popped is None:
            return False
        number, session = json.loads(popped)
        if self.chance(0.02):
            return True  # died between pop and claim
        token = uuid.UUID(int=self.random.getrandbits(128)).hex
        claimed = self.calm.claim(session, int(number), token, "worker")
        if claimed is None:
            return True
        try:
            settles = self.run_task(claimed)
        except Died:
            self.say(f"{session} DIED")
            return True
        except redis.RedisError:
            return True
        self.acknowledge(claimed, settles)
        return True

    def acknowledge(self, claimed: Claimed, settles: int) -> None:
        """What the keeper of a worker's main process does, until it knows that Redis was told."""
        written = [item.id for item in claimed.items[:settles]]
        outcome = Outcome.WRITTEN if written else Outcome.ENDED
        store = self.store if written else self.calm
        while True:
            try:
                done = store.complete(claimed.session, claimed.token, outcome, written=written)
            except Died:
                self.say(f"{claimed.session} DIED before it was acknowledged, or after")
                return
            except redis.RedisError:
                continue
            self.say(f"{claimed.session} completed: {done.state}")
            return

    def run_task(self, claimed: Claimed) -> int:
        """Run the task of a claim; how many messages its acknowledgement settles."""
        messages = [
            BatchMessage(item.id, item.number, item.accepted, [json.loads(item.message)], {}, {})
            for item in claimed.items
        ]
        self.say(
            f"claim {claimed.session} {[m.id for m in messages]} doubt={claimed.doubt} "
            f"forgotten={claimed.forgotten and claimed.forgotten - START}"
        )
        self.leases.append(
            SessionLease(
                self.store,
                claimed.session,
                claimed.token,
                messages,
                attempts=claimed.attempts,
                tries=claimed.tries,
                now=claimed.now,
                doubt=claimed.doubt,
                forgotten=claimed.forgotten,
                rewritten=claimed.rewritten,
            )
        )
        try:
            report = self.task.run(messages[0].args[0])
        except Ignore:
            self.say(f"{claimed.session} ignored")
            return 0
        self.say(f"{claimed.session} done: {report}")
        return int(report.settles)

    def stop(self, longest: float) -> None:
        """The worker that runs now is stopped for a while; the others go on."""
        until = self.now + int(self.random.random() * longest * 1000)
        renewed = self.leases[-1] if self.random.random() < 0.3 else None
        self.say(f"STOPPED until {(until - START) / 1000:.2f}, renewed: {renewed is not None}")
        if self.depth >= 2:
            self.advance(until)
            return
        self.depth += 1
        mine = list(self.leases)
        try:
            while self.now < until:
                if renewed is not None:
                    self.calm.renew([(renewed.session, renewed.token)])
                self.step()
        finally:
            self.depth -= 1
            self.leases[:] = mine
        self.say("goes on")

    def trouble(self, before: bool) -> None:
        """What may happen to a worker at any moment it talks to Redis."""
        if self.chance(0.015):
            self.say("dies " + ("before" if before else "after") + " a script")
            raise Died
        if self.chance(0.01):
            raise redis.ConnectionError("the test says so")
        if self.chance(0.015):
            self.stop(2 * OPTIONS.lease)

    # -- all together --------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens."""
        self.advance(self.now + self.random.choice([1, 20, 200, 200, 1000]))
        if self.saved is None:
            if self.chance(self.crashes):
                self.save()
        elif self.chance(0.3):
            self.crash_redis()
        if self.chance(0.1):
            self.retry_letters()
        if self.chance(0.02):
            self.repair()
        if self.random.random() < 0.4:
            self.push()
        self.keep()
        if self.random.random() < 0.8:
            self.work()

    def run(self) -> None:
        """To the end, and look."""
        for _ in range(60):
            self.step()
        self.faults = False
        for _ in range(2000):
            self.step()
            gateway = self.gateway
            if not (gateway.rows or gateway.kept or self.landings or self._queued()):
                if not any(letter.reason != "poison" for letter in self.letters.newest()):
                    break
                self.retry_letters()
        else:
            raise AssertionError("not everything is settled")
        self.check()

    def _queued(self) -> int:
        return sum(self.calm.progress(session).state != "idle" for session in SESSIONS)

    def check(self) -> None:
        assert "twice" not in self.calm.counters(), "a question found something twice"
        for session, entries in self.sent.items():
            good = [entry for entry in entries if not is_poison(entry)]
            wanted = [
                (entry.turn_id, part)
                for entry in good
                if isinstance(entry, Turn)
                for part in range(entry.size)
            ]
            poisoned = {entry.turn_id for entry in entries if is_poison(entry)}
            found = [pair for pair in self.stored[session] if pair[0] not in poisoned]
            if self.retried:  # a turn that was given up and retried may be behind later ones
                found.sort(key=[*wanted, *found].index)
            assert found == wanted, problem("messages", wanted, found)
            # A poison turn may be there in part, but no part of it twice.
            twice = {pair for pair, times in Counter(self.stored[session]).items() if times > 1}
            assert not twice, problem("poison", (), twice)
            facts = [entry for entry in good if isinstance(entry, Conclusion)]
            stored = self.concluded["hermes", session]
            # Equal ones cannot be told apart: one may stand for the others.
            texts = [fact.content for fact in facts]
            assert {text for _, text in stored} == set(texts), ("lost", texts, stored)
            more = Counter(text for _, text in stored) - Counter(texts)
            assert not more, ("conclusions twice", more)
            if not self.retried:
                self._check_places(good, session)

    def _check_places(self, good: Sequence[Memory], session: str) -> None:
        """A conclusion that nothing else equals is between its neighbours."""
        place = {pair: index for index, pair in enumerate(self.stored[session])}
        texts = Counter(entry.content for entry in good if isinstance(entry, Conclusion))
        after = {text: after for after, text in self.concluded["hermes", session]}
        reached = 0
        for entry in good:
            if isinstance(entry, Turn):
                reached = place[entry.turn_id, entry.size - 1] + 1
            elif texts[entry.content] == 1:
                assert reached <= after[entry.content], f"{entry.turn_id} is before its turn"


def is_poison(entry: Memory) -> bool:
    return isinstance(entry, Turn) and any(m.content == POISON for m in entry.messages)


def problem(what: str, wanted: Iterable[Any], found: Iterable[Any]) -> str:
    wanted, found = Counter(wanted), Counter(found)
    return f"{what}: lost {wanted - found}, twice {found - wanted}, or out of order"


class FaultyStore(SessionStore):
    """What a worker says to Redis, at which it may die, or be stopped."""

    __slots__ = ("world",)
    world: World

    def _run(self, name: str, session: str, *arguments: Any) -> Any:
        self.world.trouble(before=True)
        answer = super()._run(name, session, *arguments)
        self.world.trouble(before=False)
        return answer


class FaultyGate(Gate):
    """Likewise what a worker says to the gate; it may also go unanswered."""

    __slots__ = ("world",)
    world: World

    def _run(self, name: str, *arguments: Any, session: str | None = None) -> Any:
        self.world.trouble(before=True)
        answer = super()._run(name, *arguments, session=session)
        self.world.trouble(before=False)
        return answer


class Honcho(HonchoClient):
    """The service, and the client of it: what the writer needs."""

    def __init__(self, world: World) -> None:
        super().__init__("http://honcho.test")
        self.world = world

    def ensure(self, workspace: str, session: str, peers: Any, *, calls: Any) -> None:
        if self.world.chance(0.05):
            self._ask(calls)

    def ensure_peers(self, workspace: str, peers: Iterable[str], *, calls: Any) -> None:
        if self.world.chance(0.05):
            self._ask(calls)

    def held(
        self, workspace: str, session: str, turn_ids: Collection[str], *, calls: Any
    ) -> Counter[tuple[str, int]]:
        self._ask(calls)
        stored = self.world.stored[f"default:w:{session}"]
        found = Counter(pair for pair in stored if pair[0] in turn_ids)
        self.world.say(f"asked for {sorted(turn_ids)}: {sorted(found)}")
        return found

    def concluded(
        self,
        workspace: str,
        session: str,
        observer: str,
        observed: str,
        contents: Iterable[str],
        *,
        calls: Any,
    ) -> Counter[str]:
        self._ask(calls)
        stored = self.world.concluded[observer, f"default:w:{session}"]
        found = Counter(contents) & Counter(content for _, content in stored)
        self.world.say(f"asked for conclusions: {found}")
        return found

    def add_messages(
        self, workspace: str, session: str, messages: Sequence[Mapping[str, Any]], *, call: Call
    ) -> None:
        world = self.world
        pairs = [(m["metadata"]["turn_id"], m["metadata"]["part"]) for m in messages]
        poison = any(message["content"] == POISON for message in messages)

        def land() -> None:
            world.say(f"LANDS {pairs}")
            world.stored[f"default:w:{session}"].extend(pairs)

        world.say(f"write {pairs}")
        self._write(call, land, len(pairs), poison=poison)

    def conclude(
        self,
        workspace: str,
        session: str,
        observer: str,
        observed: str,
        content: str,
        *,
        call: Call,
    ) -> None:
        world, name = self.world, f"default:w:{session}"

        def land() -> None:
            world.say(f"LANDS {content!r}")
            world.concluded[observer, name].append((len(world.stored[name]), content))

        world.say(f"conclude {content!r}")
        self._write(call, land, 1, poison=False)

    def _ask(self, calls: Any) -> None:
        world = self.world
        with calls() as call:
            self._leave(call)
            if world.chance(0.25):
                raise Overloaded(
                    "a question",
                    status=world.random.choice([500, 502]),
                    may_have_been_written=False,
                )
            if world.chance(0.03):
                raise Died

    def _leave(self, call: Call) -> None:
        """The first byte of a call leaves, if its worker was not stopped too long before it."""
        world = self.world
        if world.chance(0.08):
            world.stop(4 * OPTIONS.lease)
        call.sending()
        world.advance(world.now + world.random.choice([0, 5, 50]))

    def _write(self, call: Call, land: Callable[[], None], size: int, *, poison: bool) -> None:
        world = self.world
        self._leave(call)
        start = world.now
        if size > world.largest:
            raise Refused("too large", status=413)
        if poison:
            raise Refused("poison", status=422)
        if world.chance(0.5):
            self._suffer(call, land, start)
            return
        land()

    def _suffer(self, call: Call, land: Callable[[], None], start: int) -> None:
        world = self.world
        fate = world.random.choice(["now", "late", "late", "never"])
        end = world.random.choice(
            ["cut", "cut", "502", "dies", "dies", "stopped", "definite", "late"]
        )
        world.say(f"fate: {fate}, {end}")
        if end == "definite":
            raise world.random.choice(
                [
                    Overloaded("a call", status=500, may_have_been_written=False),
                    Overloaded("a call", status=503, may_have_been_written=False),
                    RateLimited("a call"),
                    Unreachable("a call", may_have_been_written=False),
                ]
            )
        if fate == "now":
            land()
        elif fate == "late":
            before = world.leases[-1]._send_before
            assert before is not None
            noted = (before - SEND_WITHIN * OPTIONS.lease) * 1000
            world.later(
                world.random.randint(start, max(start, int(noted + LANDING * 1000) - 1)), land
            )
        if end == "dies":
            world.advance(world.now + int(world.random.random() * call.seconds * 1000))
            raise Died
        if end == "stopped":
            world.stop(2 * OPTIONS.lease)
        elif end in ("cut", "late"):
            world.advance(start + int(call.seconds * 1000))
        if end == "502":
            raise Overloaded("a call", status=502, may_have_been_written=True)
        if fate == "now" and end == "stopped":
            return  # the answer had come meanwhile
        raise DeadlineExceeded("a call", may_have_been_written=True)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule undone: texts of scripts replaced, or methods. ``seed``: a world that notices."""

    seed: int
    edits: Edits = field(default_factory=dict)
    methods: Sequence[tuple[type, str, Callable[..., Any]]] = ()


@contextmanager
def worlds(settings: Settings, broken: Broken | None = None) -> Iterator[Callable[..., World]]:
    """Makes worlds, in which the task is the product's and all scripts have the test's clock."""
    broken = broken or Broken(0)
    current: list[World] = []

    def make(client: redis.Redis, seed: int) -> World:
        random.seed(seed)  # of the scripts' jitter
        current.append(World(client, seed))
        return current[-1]

    def lease_of(cls: type, task: Any) -> SessionLease:
        return current[-1].leases[-1]

    def guard_of(task: Any, lease: SessionLease, turns: Sequence[Memory]) -> GatedLease:
        resent = [turn.turn_id for turn in turns if turn.ask]
        return GatedLease(lease, current[-1].gate(), "worker", resent)

    def writer_of(app: Any) -> Writer:
        return Writer(Honcho(current[-1]))

    with pytest.MonkeyPatch.context() as patch, edited_scripts(broken.edits):
        patch.setattr(World, "task", make_app(settings, set_as_current=False).tasks[TASK])
        patch.setattr(writer_module, "CALL_LIMIT", CALL_LIMIT)
        patch.setattr(SessionLease, "now", staticmethod(lambda: current[-1].now / 1000))
        patch.setattr(SessionLease, "of", classmethod(lease_of))
        patch.setattr(tasks, "guard_of", guard_of)
        patch.setattr(tasks, "writer_of", writer_of)
        for owner, name, method in broken.methods:
            patch.setattr(owner, name, method)
        yield make


def hunt(
    client: redis.Redis, settings: Settings, seeds: Iterable[int], broken: Broken | None = None
) -> str:
    """What happened in the first world that goes wrong; ``""`` if none does."""
    with worlds(settings, broken) as make:
        for seed in seeds:
            world = make(client, seed)
            try:
                world.run()
            except AssertionError as error:
                return "\n".join([*world.history, f"seed {seed}: {error}"])
    return ""


def test_whatever_dies_stops_or_lands_late_every_part_is_there_once_and_in_order(
    redis_client: redis.Redis, settings: Settings
) -> None:
    story = hunt(redis_client, settings, range(WORLDS))
    assert not story, story


def _ends_doubt(guard: GatedLease, error: HonchoError) -> bool:
    return error.may_have_been_written


def _asks_no_more(lease: SessionLease, ids: Iterable[str], resent: Collection[str] = ()) -> bool:
    return False


def _checks_nothing(lease: SessionLease) -> None:
    pass


BROKEN = {
    "any failure ends all doubt": Broken(2, {"postpone": [("ARGV[6] == '0'", "true")]}),
    "a failed question ends all doubt": Broken(82, methods=[(GatedLease, "in_doubt", _ends_doubt)]),
    "the next call hides the one before": Broken(
        0,
        {
            "common": [
                ("first, last = math.min(first, earlier_first), math.max(last, earlier_last)", "")
            ]
        },
    ),
    "the gate records no intent": Broken(1, {"admit": [("if last > 0 then", "if false then")]}),
    "nothing is asked": Broken(
        0, {"claim": [("local landing, forgotten", "intent = nil; local landing, forgotten")]}
    ),
    "nothing is waited for": Broken(3, methods=[(SessionLease, "ask_again", _asks_no_more)]),
    "what Redis forgot is not waited for": Broken(
        20, {"claim": [("if known ~= epoch then", "if false then")]}
    ),
    "what a gateway sent again is not waited for": Broken(
        139, {"claim": [("forgotten > now and forgotten or 0", "0")]}
    ),
    "an acknowledgement settles what is in flight behind as well": Broken(
        26,
        {
            "complete": [
                ("INFLIGHT, 0, #ARGV - 8", "INFLIGHT, 0, -1"),
                ("if not done[item.id] then", "if false then"),
            ]
        },
    ),
    "a worker that was stopped sends": Broken(
        11, methods=[(SessionLease, "check", _checks_nothing)]
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_undone_is_noticed(redis_client: redis.Redis, settings: Settings, rule: str) -> None:
    broken = BROKEN[rule]
    assert hunt(redis_client, settings, range(broken.seed, broken.seed + 200), broken)
