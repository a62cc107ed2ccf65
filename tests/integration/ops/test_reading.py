"""What is read of a deployment: right whatever happens, and as fast with 100,000 sessions."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from hermes_tasks.gate import Ended, Gate, Go, Policy
from hermes_tasks.gate.check import Check
from hermes_tasks.ops import (
    STATES,
    Histogram,
    Page,
    SessionRow,
    list_sessions,
    read_history,
    read_overview,
    read_session,
)
from hermes_tasks.ops.history import record_history
from hermes_tasks.ops.index import Index
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.transport import SessionOptions, SessionStore
from hermes_tasks.transport import check as checking
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.steering import Steering
from tests.integration.ops.many import GATE, fill

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

OPTIONS = SessionOptions(waiting_limit=4, backlog_limit=3, batch_messages=3)


@pytest.fixture
def store(redis_client: redis.Redis) -> SessionStore:
    return SessionStore(redis_client, options=OPTIONS)


def pages(store: SessionStore, limit: int, state: str | None = None) -> Iterator[Page]:
    page = list_sessions(store, limit=limit, state=state)
    yield page
    while page.cursor:
        page = list_sessions(store, limit=limit, state=state, cursor=page.cursor)
        yield page


def rows_of(store: SessionStore, state: str | None = None, limit: int = 7) -> list[SessionRow]:
    return [row for page in pages(store, limit, state) for row in page.rows]


# -- right ----------------------------------------------------------------------------------------


def happen(store: SessionStore, chance: random.Random, steps: int) -> None:
    """What becomes of sessions: all that pushes, workers and operators do, in any order."""
    gate, letters, steering = Gate(store, Policy(), GATE), DeadLetters(store), Steering(store)
    leased: dict[str, tuple[str, list[str]]] = {}

    def session() -> str:
        return f"default:w:{chance.randrange(40)}"

    for step in range(steps):
        what = chance.choices(
            ["push", "claim", "end", "purge", "drop", "pause", "resume", "retry"],
            [50, 25, 25, 1, 1, 2, 2, 2],
        )[0]
        if what == "push":
            store.push(session(), "{}", id=f"t{step}", kind="k", delay=chance.choice([0, 0, 0, 60]))
        elif what == "claim":
            entry: Any = store.client.rpop(store.names.run)
            number, name = json.loads(entry) if entry else (0, "")
            claimed = store.claim(name, int(number), f"token {step}", "w:1") if entry else None
            if claimed:
                leased[name] = (claimed.token, [item.id for item in claimed.items])
        elif what == "end" and leased:
            name, (token, ids) = leased.popitem()
            how = chance.choice(
                ["write", "write", "some", "found", "bury", "sleep", "hold", "fail"]
            )
            if how in ("write", "some"):
                store.commit(name, token, ids if how == "write" else ids[:1])
            elif how == "found":
                store.commit_found(name, token, ids)
            elif how == "bury":
                store.bury(name, token, ids[0], reason="poison")
            elif how == "sleep":
                store.postpone(name, token, 60)
            elif how == "hold":
                store.client.hset(store.names.gate(GATE)[0], "state", "open")
                store.client.hset(store.names.gate(GATE)[0], "probe_at", int(2e12))
                gate.admit(name, token, (1, 1), f"call {step}", 1)
                continue
            store.complete(name, token, Outcome.FAILED if how == "fail" else Outcome.ENDED, ids[0])
        elif what == "purge":
            store.purge(session())
        elif what == "drop":
            steering.drop(session())
        elif what == "pause":
            steering.pause(session())
        elif what == "resume":
            steering.resume(session())
        elif what == "retry":
            list(letters.retry(list(letters.newest(limit=2))))


@pytest.mark.parametrize("number", range(4))
def test_every_number_is_that_of_a_full_read(store: SessionStore, number: int) -> None:
    happen(store, random.Random(number), 1200)
    seen = {
        one.session: one
        for one in checking.look(store, checking.known_sessions(store))
        if isinstance(one, checking.Snapshot)
    }
    overview = read_overview(store, Policy())
    queued = {name: one.items for name, one in seen.items() if one.items}
    states = Counter(one.state for one in seen.values())

    assert overview.unsettled == sum(map(len, queued.values())) > 0
    assert overview.backlog == sum(len(one.backlog) for one in seen.values())
    assert overview.dead == store.client.xlen(store.names.dead)
    found = dict(overview.sessions)
    assert found.pop("paused") == sum(one.paused for one in seen.values())
    assert found == {state: states[state] for state in found}
    assert overview.written == overview.lags.count
    assert 0 < overview.found < overview.written

    rows = rows_of(store)
    assert {row.session for row in rows} == queued.keys()
    assert len(rows) == len(queued), "a session is listed twice"
    lags = [row.lag for row in rows if row.lag is not None]
    assert lags == pytest.approx(sorted(lags, reverse=True), abs=0.2)
    for row in rows:
        one = seen[row.session]
        assert (row.state, row.paused) == (one.state, one.paused)
        assert (row.inflight, row.backlog, row.waiting) == (
            len(one.inflight),
            len(one.backlog),
            len(one.waiting),
        )
        detail = read_session(store, row.session)
        assert detail is not None
        assert [(t.number, t.id) for t in detail.turns] == [(i.number, i.id) for i in one.items]
        assert detail.lag == pytest.approx(detail.turns[0].age, abs=0.2)
    for state in STATES:
        expected = {
            name
            for name, one in seen.items()
            if (one.paused if state == "paused" else one.state == state)
        }
        assert {row.session for row in rows_of(store, state)} == expected, state


def test_numbers_stay_right_while_gateways_push_and_workers_write(
    server: Server, store: SessionStore
) -> None:
    stopped = threading.Event()

    def push(number: int) -> None:
        own = SessionStore(server.client(), options=OPTIONS)
        for serial in itertools.count():
            if stopped.is_set():
                return
            own.push(f"default:w:{serial % 97}", "{}", id=f"{number} {serial}", kind="k")

    def work(number: int) -> None:
        own = SessionStore(server.client(), options=OPTIONS)
        for serial in itertools.count():
            entry: Any = own.client.rpop(own.names.run)
            if entry is None:
                if stopped.is_set():
                    return
                continue
            name, token = json.loads(entry)[1], f"{number} {serial}"
            claimed = own.claim(name, int(json.loads(entry)[0]), token, "w:1")
            if claimed:
                own.commit(name, token, [item.id for item in claimed.items][: serial % 4])
                own.complete(name, token, Outcome.RELEASED)

    def counted() -> tuple[int, int]:
        overview = read_overview(store, Policy())
        return overview.accepted, overview.accepted - overview.unsettled

    threads = [threading.Thread(target=act, args=(n,)) for n in range(3) for act in (push, work)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        accepted, gone = counted()
        queued = len(queued_ids(store))
        accepted_since, gone_since = counted()
        assert accepted - gone_since <= queued <= accepted_since - gone
        rows = list_sessions(store, limit=97).rows
        assert len({row.session for row in rows}) == len(rows)
    stopped.set()
    for thread in threads:
        thread.join()
    assert Check(store, Policy(), settle=0.0).run().findings == ()
    overview = read_overview(store, Policy())
    assert (overview.unsettled, overview.lag, overview.backlog) == (0, None, 0)
    assert overview.written == overview.lags.count > 0
    assert list_sessions(store) == Page((), "")


def queued_ids(store: SessionStore) -> set[str]:
    """Of every turn that is queued, read session by session."""
    known = checking.look(store, checking.known_sessions(store))
    found = [one for one in known if isinstance(one, checking.Snapshot)]
    return {item.id for one in found for item in one.items}


def test_percentiles_are_nearest_ranks_and_a_delayed_turn_does_not_lag(
    store: SessionStore, redis_client: redis.Redis
) -> None:
    assert read_overview(store, Policy()).lag is None
    seconds, micros = redis_client.time()
    now = seconds * 1000 + micros // 1000
    for age in range(1, 101):
        redis_client.zadd(store.names.lagging, {f"s{age}": now - age * 1000})
    lag = read_overview(store, Policy()).lag
    assert lag is not None
    assert (lag.p50, lag.p95, lag.p99, lag.longest) == pytest.approx((50, 95, 99, 100), abs=0.5)
    redis_client.delete(store.names.lagging)
    store.push("s", "{}", id="1", delay=60)
    lag = read_overview(store, Policy()).lag
    assert lag is not None
    assert lag.longest == 0.0


def test_a_page_begins_where_the_last_one_ended_whatever_happens_between(
    store: SessionStore, redis_client: redis.Redis
) -> None:
    # Many of one millisecond, with names in no language's order.
    names = [f"{letter}{number}" for letter in ("a", "Z", "é", "b:c", " ") for number in range(9)]
    for name in names:
        store.push(name, "{}", id=name)
        redis_client.zadd(store.names.lagging, {name: 1_000})
    seen: list[str] = []
    for number, page in enumerate(pages(store, 4)):
        seen += [row.session for row in page.rows]
        if number < 6:  # the last one seen goes, or becomes younger
            token, gone = f"t{number}", page.rows[-1].session
            redis_client.zadd(store.names.lagging, {page.rows[-2].session: 2_000})
            ready: Any = redis_client.zscore(store.names.ready, gone)
            assert store.claim(gone, int(ready), token, "w")
            store.commit(gone, token, [gone])
            store.complete(gone, token, Outcome.ENDED)
    assert set(seen) == set(names), "a session was missed"
    assert len(seen) <= len(names) + 6, "only one that has become younger is seen again"


@pytest.mark.parametrize("state", [None, "ready", "held"])
@pytest.mark.parametrize("cursor", ["x", "1 2 3 4", "a b", "nan x"])
def test_a_cursor_that_is_none_is_refused(
    store: SessionStore, state: str | None, cursor: str
) -> None:
    with pytest.raises(ValueError, match="cursor"):
        list_sessions(store, cursor=cursor, state=state)


def test_nothing_breaks_in_a_redis_that_is_new(store: SessionStore) -> None:
    overview = read_overview(store, Policy())
    assert (overview.unsettled, overview.lag, overview.gates) == (0, None, ())
    assert list_sessions(store) == Page((), "")
    assert read_session(store, "nobody") is None
    assert read_history(store) == ()


def test_what_another_version_or_nobody_wrote_is_passed_over(store: SessionStore) -> None:
    names, client = store.names, store.client
    client.hset(names.workers, mapping={"a": "1", "b": "x y", "c": ""})
    client.hset(names.gateways, mapping={"a": "1 2", "b": "soon"})
    client.hset(names.stats, mapping={"lag:70": 1, "lag:inf": 2, "lag:x": 3, "odd": "text"})
    assert record_history(store, Policy())
    client.lpush(names.history, "not JSON", "{}", json.dumps({"at": None}))
    overview = read_overview(store, Policy())
    assert overview.workers == ()
    assert (overview.lags.counts[0], overview.lags.counts[-1]) == (1, 2)
    assert len(read_history(store)) == 1


def test_of_many_gates_the_history_has_those_that_matter(store: SessionStore) -> None:
    for number in range(30):
        store.client.zadd(store.names.gates, {f"default:{number}": 0})
        gate = store.names.gate(f"default:{number}")[0]
        store.client.hset(gate, "n_calls", str(number))
    store.client.hset(store.names.gate("default:3")[0], mapping={"state": "open", "probe_at": 0})
    assert record_history(store, Policy())
    (sample,) = read_history(store)
    assert sample.gates.keys() == {f"default:{number}" for number in (3, *range(11, 30))}


def test_calls_are_counted_by_how_long_they_took(store: SessionStore) -> None:
    gate = Gate(store, Policy(), GATE)
    for number, seconds in enumerate((0.05, 0.051, 3.0, 500.0)):
        name, token = f"default:w:{number}", f"t{number}"
        store.push(name, "{}", id=name)
        ready: Any = store.client.zscore(store.names.ready, name)
        assert store.claim(name, int(ready), token, "w")
        answer = gate.admit(name, token, (1, 1), name, 1)
        assert isinstance(answer, Go)
        gate.report(answer, Ended.OK, seconds)
    took = gate.status().took
    assert took.count == 4
    assert took.total == pytest.approx(503.101)
    assert [took.counts[took.bounds.index(bound)] for bound in (0.05, 0.1, 5.0)] == [1, 1, 1]
    assert took.counts[-1] == 1


def test_a_turn_is_counted_by_its_age_when_it_is_written(store: SessionStore) -> None:
    for number, age in enumerate((0, 400, 100_000_000)):
        name = f"s{number}"
        store.push(name, "{}", id=name)
        waiting = store.names.session(name)[2]
        item: Any = store.client.lindex(waiting, 0)
        parts = item.decode().split(" ")
        parts[4] = str(int(parts[4]) - age)
        store.client.lset(waiting, 0, " ".join(parts))
        ready: Any = store.client.zscore(store.names.ready, name)
        assert store.claim(name, int(ready), "t", "w")
        store.complete(name, "t", Outcome.SETTLED, name)
    lags = read_overview(store, Policy()).lags
    assert isinstance(lags, Histogram)
    assert (lags.counts[0], sum(lags.counts[1:4]), lags.counts[-1]) == (1, 1, 1)
    assert lags.total == pytest.approx(100_000.4, abs=5)


def test_what_an_older_version_had_queued_is_listed_and_what_it_has_written_is_not(
    store: SessionStore,
) -> None:
    fill(store, 1_000, age=60.0)
    store.client.delete(store.names.lagging)
    written_by_another = {f"gone {number}": number for number in range(60)}
    store.client.zadd(store.names.lagging, written_by_another)
    index = Index(store, Policy())
    for _ in range(2):
        index.look()
        for _ in range(20):
            index.tick()
    assert {row.session for row in rows_of(store, limit=500)} == {
        f"default:w:{number}" for number in range(1, 1_001)
    }
    lagging: Any = store.client.zcard(store.names.lagging)
    assert lagging == 1_000, "what is gone is still counted"


# -- as fast with 100,000 sessions ----------------------------------------------------------------


def seconds_of(question: Callable[[], object]) -> float:
    """The shortest of three: what it takes when nothing else has the processor."""
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        question()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def test_everything_is_read_soon_with_a_hundred_thousand_sessions(
    store: SessionStore,
) -> None:
    count = 100_000
    fill(store, count, age=3600.0)
    sample = list(checking.look(store, [f"default:w:{number}" for number in (1, 2, 3)]))
    held = {"default:w:2": [GATE]}
    queue = {"default:w:3": 3}
    for one in sample:
        assert isinstance(one, checking.Snapshot)
        assert not list(checking.faults(one, queue, held)), "not what pushes leave"

    overview = read_overview(store, Policy())
    assert overview.unsettled == count
    assert sum(overview.sessions.values()) == count
    there: Any = store.client.zrange(store.names.lagging, 50_000, 50_000, withscores=True)
    middle = f"{int(there[0][1])} x"
    deep = list_sessions(store, state="held", limit=1000)
    questions: dict[str, Callable[[], object]] = {
        "overview": lambda: read_overview(store, Policy()),
        "the first page": lambda: list_sessions(store),
        "a page in the middle": lambda: list_sessions(store, cursor=middle),
        "a long page": lambda: list_sessions(store, limit=500),
        **{
            f"those {state}": lambda state=state: list_sessions(store, state=state)  # type: ignore[misc]
            for state in STATES
        },
        "the next held": lambda: list_sessions(store, state="held", cursor=deep.cursor),
        "one session": lambda: read_session(store, "default:w:77777"),
        "the history": lambda: read_history(store),
        "a sample": lambda: record_history(store, Policy()),
    }
    taken = {what: seconds_of(question) for what, question in questions.items()}
    assert max(taken.values()) < 0.3, taken
