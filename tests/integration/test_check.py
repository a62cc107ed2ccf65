"""What `hermes-tasks check` finds and repairs: whatever is corrupted, no message is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_tasks.gate import Gate, Hold, Policy
from hermes_tasks.gate.check import Check
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport.answers import Item, Outcome
from hermes_tasks.transport.check import Fault
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.steering import Steering

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

OPTIONS = SessionOptions(
    lease=10, waiting_limit=3, backlog_limit=2, batch_messages=3, batch_size=5, landing=0
)
STATES = ("idle", "ready", "leased", "sleeping", "held", "paused")
SESSIONS = ("default:w:a", "default:w:a:ids", "ü:w:[bold] %3A\n")
GATE = "default:w"


@pytest.fixture
def store(redis_client: redis.Redis) -> SessionStore:
    return SessionStore(redis_client, options=OPTIONS)


@pytest.fixture
def check(store: SessionStore) -> Check:
    """A check that does not wait between its looks."""
    return Check(store, Policy(), settle=0.0)


# -- a deployment in any state --------------------------------------------------------------------


def claim_next(store: SessionStore, token: str) -> str | None:
    """Claim the oldest of the run queue; its session, or ``None`` if there is nothing to take."""
    entry: Any = store.client.rpop(store.names.run)
    if entry is None:
        return None
    number, session = json.loads(entry)
    claimed = store.claim(session, int(number), token, "worker")
    return session if claimed else None


def bring_to(store: SessionStore, session: str, state: str, messages: int) -> None:
    """Bring a session into a state, by what brings it there."""
    for number in range(messages):
        store.push(session, f"text of {number}", id=f"{session} {number}", kind="k")
    if state == "paused":
        Steering(store).pause(session)
    if state in ("ready", "paused"):
        return
    while (claimed := claim_next(store, f"token of {session}")) != session:
        if claimed is not None:
            store.complete(claimed, f"token of {session}", Outcome.RELEASED)
        assert store.client.llen(store.names.run), "not on the run queue"
    token = f"token of {session}"
    if state == "sleeping":
        store.postpone(session, token, 60, in_doubt=False)
        store.complete(session, token, Outcome.ENDED)
    elif state == "held":
        gate = Gate(store, Policy(), GATE)
        later = redis_ms(store) + 60_000
        store.client.hset(store.names.gate(GATE)[0], mapping={"state": "open", "probe_at": later})
        assert isinstance(gate.admit(session, token, (1, 1), f"call {session}", 1), Hold)
    elif state == "idle":
        claimed_ids = [item.id for item in queue_of(store, session)]
        assert store.commit(session, token, claimed_ids, doubtful=0)
        store.purge(session)
        store.complete(session, token, Outcome.ENDED)


def redis_ms(store: SessionStore) -> int:
    seconds, micros = store.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def queue_of(store: SessionStore, session: str) -> list[Item]:
    _, inflight, waiting, backlog, *_ = store.names.session(session)
    lists: list[Any] = [store.client.lrange(key, 0, -1) for key in (inflight, backlog, waiting)]
    return [Item.parse(raw) for items in lists for raw in items]


# -- what can go wrong with it --------------------------------------------------------------------

Corrupt = Callable[[redis.Redis, SessionStore, str], object]


def part(store: SessionStore, session: str, name: str) -> str:
    parts = ("hash", "inflight", "waiting", "backlog", "ids")
    return store.names.session(session)[parts.index(name)]


def turned_round(client: redis.Redis, store: SessionStore, session: str) -> None:
    key = part(store, session, "waiting")
    items: Any = client.lrange(key, 0, -1)
    if items:
        client.delete(key)
        client.rpush(key, *reversed(items))


def moved(client: redis.Redis, store: SessionStore, session: str) -> None:
    client.lmove(part(store, session, "waiting"), part(store, session, "inflight"), "RIGHT", "LEFT")


def doubled(client: redis.Redis, store: SessionStore, session: str) -> None:
    key = part(store, session, "waiting")
    item: Any = client.lindex(key, 0)
    if item:
        client.rpush(key, item)


def renumbered(client: redis.Redis, store: SessionStore, session: str) -> None:
    key = part(store, session, "waiting")
    items: Any = client.lrange(key, 0, -1)
    if len(items) > 1:
        client.lset(key, 1, items[0].partition(b" ")[0] + b" " + items[1].partition(b" ")[2])


def gate_key(store: SessionStore, name: str) -> str:
    return store.names.gate(GATE)[{"held": 1, "calls": 2, "permits": 3}[name]]


#: Ways to corrupt a session. None takes a message away: what is gone nobody can bring back.
CORRUPTIONS: dict[str, Corrupt] = {
    "hash deleted": lambda c, s, n: c.delete(part(s, n, "hash")),
    "state deleted": lambda c, s, n: c.hdel(part(s, n, "hash"), "state"),
    "state ready": lambda c, s, n: c.hset(part(s, n, "hash"), "state", "ready"),
    "state held": lambda c, s, n: c.hset(part(s, n, "hash"), "state", "held"),
    "state leased": lambda c, s, n: c.hset(part(s, n, "hash"), "state", "leased"),
    "state unheard of": lambda c, s, n: c.hset(part(s, n, "hash"), "state", "merry"),
    "token deleted": lambda c, s, n: c.hdel(part(s, n, "hash"), "token"),
    "a token without a lease": lambda c, s, n: c.hset(part(s, n, "hash"), "token", "x"),
    "not in ready": lambda c, s, n: c.zrem(s.names.ready, n),
    "not in leases": lambda c, s, n: c.zrem(s.names.leases, n),
    "not in sleeping": lambda c, s, n: c.zrem(s.names.sleeping, n),
    "in ready": lambda c, s, n: c.zadd(s.names.ready, {n: 1}),
    "in leases": lambda c, s, n: c.zadd(s.names.leases, {n: 1}),
    "in sleeping": lambda c, s, n: c.zadd(s.names.sleeping, {n: 1}),
    "not among those that lag": lambda c, s, n: c.zrem(s.names.lagging, n),
    "lagging by another age": lambda c, s, n: c.zadd(s.names.lagging, {n: 1}),
    "counters deleted": lambda c, s, _: c.delete(s.names.stats),
    "run queue emptied": lambda c, s, _: c.delete(s.names.run),
    "ids deleted": lambda c, s, n: c.delete(part(s, n, "ids")),
    "an id too many": lambda c, s, n: c.sadd(part(s, n, "ids"), "stranger"),
    "turned round": turned_round,
    "moved": moved,
    "doubled": doubled,
    "two of a number": renumbered,
    "an entry that is none": lambda c, s, n: c.rpush(part(s, n, "waiting"), "what is this"),
    "accepted too low": lambda c, s, n: c.hset(part(s, n, "hash"), "accepted", 0),
    "settled too high": lambda c, s, n: c.hincrby(part(s, n, "hash"), "settled", 3),
    "a count that is none": lambda c, s, n: c.hset(part(s, n, "hash"), "accepted", "many"),
    "attempts that are none": lambda c, s, n: c.hset(part(s, n, "hash"), "attempts", "x"),
    "an intent that is none": lambda c, s, n: c.hset(part(s, n, "hash"), "intent", "x"),
    "a since that is none": lambda c, s, n: c.hset(part(s, n, "hash"), "since", "x"),
    "to be forgotten": lambda c, s, n: c.expire(part(s, n, "hash"), 1_000),
    "never forgotten": lambda c, s, n: c.persist(part(s, n, "hash")),
    "paused deleted": lambda c, s, n: c.hdel(part(s, n, "hash"), "paused"),
    "not in paused": lambda c, s, n: c.zrem(s.names.paused, n),
    "in paused": lambda c, s, n: c.zadd(s.names.paused, {n: 1}),
    "paused since it is none": lambda c, s, n: c.hset(part(s, n, "hash"), "paused", "x"),
    "to wake when it is none": lambda c, s, n: c.hset(part(s, n, "hash"), "due", "x"),
    "at no gate": lambda c, s, _: c.delete(gate_key(s, "held")),
    "at the gate": lambda c, s, n: c.rpush(gate_key(s, "held"), n),
    "no gate known": lambda c, s, _: c.delete(s.names.gates),
    "a call without an end": lambda c, s, _: c.zadd(gate_key(s, "calls"), {"x": 10**15}),
}


def drain(store: SessionStore) -> list[str]:
    """Write all there is; the ids in the order in which they reach the backend."""
    written: list[str] = []
    gate = Gate(store, Policy(), GATE)
    store.client.delete(store.names.gate(GATE)[0])
    for paused in members(store, store.names.paused):
        assert Steering(store).resume(paused) is not None
    for number in range(60):
        for sleeping in members(store, store.names.sleeping):
            store.client.zadd(store.names.sleeping, {sleeping: 1})
            store.wake(sleeping)
        gate.release()
        token = f"drain {number}"
        session = claim_next(store, token)
        if session is None:
            continue
        claimed = store.claim(session, 0, token, "worker")
        assert claimed is not None
        ids = [item.id for item in claimed.items]
        written += ids
        assert store.commit(session, token, ids, doubtful=0)
        store.complete(session, token, Outcome.ENDED)
    return written


def end_leases(store: SessionStore) -> None:
    """Every worker is silent for so long that nothing is leased any more."""
    for leased in members(store, store.names.leases):
        store.client.zadd(store.names.leases, {leased: redis_ms(store) - 1})


def help_on(store: SessionStore) -> None:
    """What a keeper does: it ends claims of the dead, and wakes sleepers."""
    for leased in members(store, store.names.leases):
        store.complete(leased, "", Outcome.LAPSED)
    for sleeping in members(store, store.names.sleeping):
        store.wake(sleeping)


def members(store: SessionStore, key: str) -> list[str]:
    found: Any = store.client.zrange(key, 0, -1)
    return [member.decode() for member in found]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    states=st.tuples(*[st.sampled_from(STATES)] * 3),
    messages=st.tuples(*[st.integers(1, 5)] * 3),
    what=st.lists(
        st.tuples(st.sampled_from(SESSIONS), st.sampled_from(sorted(CORRUPTIONS))),
        min_size=1,
        max_size=4,
    ),
)
def test_whatever_is_corrupted_is_repaired_and_nothing_is_lost_or_reordered(
    store: SessionStore,
    check: Check,
    states: tuple[str, ...],
    messages: tuple[int, ...],
    what: list[tuple[str, str]],
) -> None:
    store.client.flushdb()
    for session, state, count in zip(SESSIONS, states, messages, strict=True):
        bring_to(store, session, state, count)
    assert check.run().findings == (), "a sound deployment is sound"
    queued = {session: [item.id for item in queue_of(store, session)] for session in SESSIONS}

    for session, corruption in what:
        CORRUPTIONS[corruption](store.client, store, session)
    repaired = check.repair(check.run().findings)
    wrong = {found.where for found in check.run().findings if found.fault is not Fault.UNATTENDED}
    # A worker that has a session keeps it: what is wrong with that is repaired when it is over.
    assert wrong <= {session for session, done in repaired.items() if done.state == "leased"}
    end_leases(store)
    check.repair(check.run().findings)
    help_on(store)
    # An entry that nobody had sent was given up: counters are looked at when nothing moves.
    left = check.run().findings
    assert {found.where for found in left} <= {"counters"}
    check.repair(left)
    assert check.run().findings == ()

    written = drain(store)
    for session, expected in queued.items():
        mine = [id for id in written if id.startswith(f"{session} ")]
        # Of two messages with one number nobody knows which was first, once they are turned round.
        unordered = (session, "two of a number") in what
        assert (sorted(mine) if unordered else mine) == expected
    assert sum(map(len, queued.values())) == len(written)
    assert {letter.reason for letter in DeadLetters(store).newest()} <= {"unreadable"}


@pytest.mark.parametrize(
    ("state", "corruption", "fault"),
    [
        ("ready", "hash deleted", Fault.STATE),
        ("ready", "state deleted", Fault.STATE),
        ("held", "state ready", Fault.HELD),
        ("ready", "state held", Fault.HELD),
        ("sleeping", "state leased", Fault.STATE),
        ("ready", "state unheard of", Fault.STATE),
        ("leased", "token deleted", Fault.STATE),
        ("ready", "a token without a lease", Fault.STATE),
        ("ready", "not in ready", Fault.STATE),
        ("leased", "not in leases", Fault.STATE),
        ("sleeping", "not in sleeping", Fault.STATE),
        ("sleeping", "in ready", Fault.STATE),
        ("ready", "in leases", Fault.STATE),
        ("leased", "in leases", Fault.UNATTENDED),
        ("sleeping", "in sleeping", Fault.UNATTENDED),
        ("idle", "in sleeping", Fault.STATE),
        ("ready", "run queue emptied", Fault.QUEUE),
        ("ready", "ids deleted", Fault.IDS),
        ("ready", "an id too many", Fault.IDS),
        ("ready", "turned round", Fault.ORDER),
        ("ready", "moved", Fault.ORDER),
        ("ready", "doubled", Fault.IDS),
        ("ready", "two of a number", Fault.ORDER),
        ("idle", "an entry that is none", Fault.UNREADABLE),
        ("held", "accepted too low", Fault.COUNT),
        ("held", "settled too high", Fault.COUNT),
        ("ready", "attempts that are none", Fault.UNREADABLE),
        ("ready", "an intent that is none", Fault.UNREADABLE),
        ("ready", "to be forgotten", Fault.EXPIRY),
        ("held", "not among those that lag", Fault.LAG),
        ("idle", "lagging by another age", Fault.LAG),
        ("ready", "counters deleted", Fault.COUNT),
        ("idle", "never forgotten", Fault.EXPIRY),
        ("paused", "hash deleted", Fault.STATE),
        ("paused", "state deleted", Fault.STATE),
        ("paused", "state ready", Fault.STATE),
        ("paused", "in ready", Fault.STATE),
        ("paused", "paused deleted", Fault.STATE),
        ("paused", "not in paused", Fault.STATE),
        ("leased", "in paused", Fault.STATE),
        ("ready", "paused since it is none", Fault.STATE),
        ("paused", "to wake when it is none", Fault.UNREADABLE),
        ("paused", "to be forgotten", Fault.EXPIRY),
        ("held", "at no gate", Fault.HELD),
        ("sleeping", "at the gate", Fault.HELD),
        ("held", "no gate known", Fault.GATE),
        ("held", "a call without an end", Fault.GATE),
    ],
)
def test_each_fault_is_found_and_named(
    store: SessionStore, check: Check, state: str, corruption: str, fault: Fault
) -> None:
    bring_to(store, SESSIONS[0], state, 4)
    CORRUPTIONS[corruption](store.client, store, SESSIONS[0])
    assert fault in {finding.fault for finding in check.run().findings}


def test_what_moves_on_between_two_looks_is_not_reported(store: SessionStore) -> None:
    bring_to(store, "default:w:s", "ready", 1)
    entry: Any = store.client.rpop(store.names.run)  # by a worker that is about to claim it

    class Slow(Check):
        def _gates(self) -> Any:
            found = super()._gates()
            looked.append(1)
            if len(looked) == 2:
                store.client.rpush(store.names.run, entry)
            return found

    looked: list[int] = []
    assert Slow(store, Policy(), settle=0.0).run().findings == ()
    assert len(looked) == 2


def test_a_live_lease_is_not_touched(store: SessionStore, check: Check) -> None:
    bring_to(store, "default:w:s", "leased", 3)
    store.client.sadd(part(store, "default:w:s", "ids"), "stranger")
    before = store.client.hgetall(part(store, "default:w:s", "hash"))
    repaired = check.repair(check.run().findings)
    assert repaired["default:w:s"].state == "leased"
    assert store.client.hgetall(part(store, "default:w:s", "hash")) == before
    assert store.renew([("default:w:s", "token of default:w:s")]) == [True]
    assert [finding.fault for finding in check.run().findings] == [Fault.IDS]


def test_a_held_session_keeps_its_place_at_the_gate(store: SessionStore, check: Check) -> None:
    for session in SESSIONS:
        bring_to(store, session, "held", 1)
    store.client.delete(part(store, SESSIONS[1], "ids"))
    store.client.rpush(gate_key(store, "held"), SESSIONS[1])
    check.repair(check.run().findings)
    assert check.run().findings == ()
    held: Any = store.client.lrange(gate_key(store, "held"), 0, -1)
    assert [name.decode() for name in held] == list(SESSIONS)


def test_a_repaired_session_is_asked_about_before_it_is_written(
    store: SessionStore, check: Check
) -> None:
    bring_to(store, "s", "ready", 3)
    store.client.delete(part(store, "s", "hash"))
    check.repair(check.run().findings)
    while (session := claim_next(store, "t")) is None:
        pass
    claimed = store.claim(session, 0, "t", "worker")
    assert claimed is not None
    assert claimed.doubt is not None
    assert (claimed.doubt.first, claimed.doubt.last) == (1, 3)


def test_a_key_of_another_type_is_named_and_left_alone(store: SessionStore, check: Check) -> None:
    bring_to(store, "s", "ready", 1)
    store.client.delete(part(store, "s", "ids"))
    store.client.set(part(store, "s", "ids"), "a string")
    found = check.run().findings
    assert [finding.fault for finding in found] == [Fault.TYPE]
    assert check.repair(found) == {}


@pytest.mark.parametrize("corruption", ["hash deleted", "paused deleted", "not in paused"])
def test_a_repaired_session_stays_paused_if_anything_says_that_it_is(
    store: SessionStore, check: Check, corruption: str
) -> None:
    bring_to(store, SESSIONS[0], "paused", 3)
    CORRUPTIONS[corruption](store.client, store, SESSIONS[0])
    repaired = check.repair(check.run().findings)
    assert repaired[SESSIONS[0]].state == "paused"
    assert check.run().findings == ()
    assert Steering(store).resume(SESSIONS[0]) == "ready"


def test_a_gate_in_maintenance_that_is_not_open_is_found_and_mended(
    store: SessionStore, check: Check
) -> None:
    gate = Gate(store, Policy(), GATE)
    gate.open(60, "a new disk")
    assert check.run().findings == ()
    store.client.hdel(store.names.gate(GATE)[0], "state")
    assert {finding.fault for finding in check.run().findings} == {Fault.GATE}
    check.repair(check.run().findings)
    assert check.run().findings == ()
    assert gate.status().maintenance is None


@given(name=st.text(min_size=1))
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
def test_the_key_of_any_session_and_gate_leads_back_to_its_name(
    store: SessionStore, name: str
) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    names = store.names
    assert {names.session_of_key(key) for key in names.session(name)[:5]} == {name}
    backend, _, rest = name.partition(":")
    keys = [key for key in names.gate(name) if key != names.gates]
    assert {names.gate_of_key(key) for key in keys} == {f"{backend}:{rest}"}
    assert names.session_of_key(keys[0]) is names.gate_of_key(names.session(name)[0]) is None
