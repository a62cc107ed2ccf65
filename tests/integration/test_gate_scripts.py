"""The contract of each gate script, by example, on every kind of server.

What the decisions are is tested in ``test_gate_rules.py``, and that the scripts take the same ones
in ``test_gate_model.py``; here is what the scripts do with sessions, what they answer, and what
survives a server that lost its scripts or has no memory left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from hermes_tasks import hooks
from hermes_tasks.gate import (
    Ended,
    Gate,
    Go,
    Hold,
    Maintenance,
    Policy,
    State,
    Why,
    known_gates,
    release_all,
)
from hermes_tasks.gate.check import Check
from hermes_tasks.testing.servers import Server
from hermes_tasks.transport import scripts
from hermes_tasks.transport.answers import Claimed, Outcome
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import SessionStore

START = 1_800_000_000.0
NAME = "default:ws"


class Clock:
    """The time that the scripts see, in seconds."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.set(START)

    def set(self, now: float) -> None:
        self.now = now
        us = round(now * 10**6)
        self._client.hset("clock", mapping={"s": us // 10**6, "us": us % 10**6})

    def wait(self, seconds: float) -> None:
        self.set(self.now + seconds)


@pytest.fixture
def clock(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Scripts on a clock of the test's own."""
    original = scripts._text

    def edited(*name: str) -> str:
        return original(*name).replace(
            "redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')"
        )

    cached = (scripts.script, scripts.session_script, scripts.script_of)
    monkeypatch.setattr(scripts, "_text", edited)
    for function in cached:
        function.cache_clear()
    yield Clock(redis_client)
    for function in cached:
        function.cache_clear()


class Deployment:
    """Workers of one deployment in front of one gate."""

    def __init__(self, store: SessionStore, clock: Clock, policy: Policy) -> None:
        self.store = store
        self.clock = clock
        self.gate = Gate(store, policy, NAME, jitter=lambda: 0.5)
        self._serial = 0

    def claim(self, session: str) -> Claimed:
        """Claim a session, with one more message."""
        self._serial += 1
        self.store.push(session, "text", id=f"m{self._serial}", kind="k")
        return self.claim_next(session)

    def claim_next(self, session: str) -> Claimed:
        self._serial += 1
        entry: Any = self.store.client.rpop(self.store.names.run)
        assert entry is not None, "the run queue is empty"
        number, name = json.loads(entry)
        assert name == session
        claimed = self.store.claim(name, int(number), f"t{self._serial}", "worker")
        assert claimed is not None
        return claimed

    def ask(self, claimed: Claimed, size: int = 1, call: str = "") -> Go | Hold | None:
        self._serial += 1
        numbers = (claimed.items[0].number, claimed.items[-1].number) if size else (0, 0)
        return self.gate.admit(
            claimed.session, claimed.token, numbers, call or f"c{self._serial}", size
        )

    def go(self, session: str, size: int = 1) -> Go:
        answer = self.ask(self.claim(session), size)
        assert isinstance(answer, Go), answer
        return answer

    def hold(self, session: str) -> Claimed:
        claimed = self.claim(session)
        answer = self.ask(claimed)
        assert isinstance(answer, Hold), answer
        return claimed

    def open(self) -> None:
        """Three calls fail."""
        for number in range(3):
            self.gate.report(self.go(f"failing {number}"), Ended.FAILED, 0.1)
        assert self.gate.status().state is State.OPEN

    def fields(self, session: str) -> dict[str, str]:
        found: Any = self.store.client.hgetall(self.store.names.session(session)[0])
        return {name.decode(): value.decode() for name, value in found.items()}

    def run_queue(self) -> list[str]:
        entries: Any = self.store.client.lrange(self.store.names.run, 0, -1)
        return [json.loads(entry)[1] for entry in reversed(entries)]

    def queue(self) -> list[str]:
        found: Any = self.store.client.lrange(self.store.names.gate(NAME)[1], 0, -1)
        return [name.decode() for name in found]


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix), SessionOptions(lease=10))


@pytest.fixture
def make(store: SessionStore, clock: Clock) -> Callable[..., Deployment]:
    return lambda **policy: Deployment(store, clock, Policy(**policy))


@pytest.fixture
def workers(make: Callable[..., Deployment]) -> Deployment:
    return make()


# -- admit ----------------------------------------------------------------------------------------


def test_a_call_goes_with_the_ceiling_while_nothing_is_known(workers: Deployment) -> None:
    answer = workers.ask(workers.claim("a"), call="id")
    assert answer == Go(30_000, 0, 0, 4, False, "id")


def test_a_call_that_writes_records_its_intent_and_when_it_may_land(workers: Deployment) -> None:
    workers.go("a")
    began = int(START * 1000)
    assert workers.fields("a")["intent"] == f"1 1 {began + 45_000} 0"


def test_a_call_that_writes_nothing_records_none(workers: Deployment) -> None:
    assert workers.go("a", size=0).size_class == 0
    assert "intent" not in workers.fields("a")


def test_a_call_renews_the_lease(workers: Deployment, clock: Clock) -> None:
    claimed = workers.claim("a")
    clock.wait(8)
    assert isinstance(workers.ask(claimed), Go)
    expiry: Any = workers.store.client.zscore(workers.store.names.leases, "a")
    assert expiry == (clock.now + 10) * 1000


@pytest.mark.parametrize(("size", "most"), [(0, 0), (1, 4), (4, 4), (5, 20), (20, 20), (21, 100)])
def test_calls_are_classed_by_their_messages(workers: Deployment, size: int, most: int) -> None:
    assert workers.go("a", size).size_class == most


def test_a_token_that_is_over_is_told_so_and_changes_nothing(workers: Deployment) -> None:
    claimed = workers.claim("a")
    workers.store.complete("a", claimed.token, Outcome.RELEASED)
    assert workers.ask(claimed) is None
    assert workers.gate.status().counters["calls"] == 0


def test_an_answer_that_was_lost_may_be_asked_for_again(workers: Deployment) -> None:
    claimed = workers.claim("a")
    first = workers.ask(claimed, call="same")
    assert workers.ask(claimed, call="same") == first
    assert workers.gate.status().calls == 1


# -- hold -----------------------------------------------------------------------------------------


def test_a_held_session_gives_up_lease_and_slot_and_keeps_its_messages(
    workers: Deployment,
) -> None:
    workers.open()
    claimed = workers.hold("a")
    progress = workers.store.progress("a")
    assert (progress.state, progress.inflight, progress.attempts) == ("held", 1, 0)
    assert workers.store.complete("a", claimed.token, Outcome.ENDED).state == "lost"
    assert workers.store.client.zscore(workers.store.names.leases, "a") is None
    assert workers.run_queue() == []
    assert workers.queue() == ["a"]


def test_a_hold_is_noted_in_the_trace(workers: Deployment) -> None:
    workers.open()
    workers.hold("a")
    assert workers.fields("a")["trace"].endswith("held: open\n")


def test_messages_for_a_held_session_wait_behind_it(workers: Deployment) -> None:
    workers.open()
    workers.hold("a")
    assert workers.store.push("a", "text", id="later", kind="k").status == "accepted"
    assert workers.store.progress("a").state == "held"
    assert workers.run_queue() == []


def test_a_claimed_head_is_held_when_the_breaker_opens_meanwhile(workers: Deployment) -> None:
    claimed = workers.claim("a")
    question = workers.ask(claimed, size=0)
    assert isinstance(question, Go)
    workers.gate.report(question, Ended.OK, 0.1)
    workers.open()
    assert workers.ask(claimed) == Hold(Why.OPEN)
    assert workers.queue() == ["a"]


# -- breaker and probe ----------------------------------------------------------------------------


def test_while_open_the_timer_moves_nothing_until_the_probe_is_due(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    workers.hold("a")
    workers.hold("b")
    clock.wait(59.9)
    assert workers.gate.release() is State.OPEN
    assert workers.run_queue() == []
    clock.wait(0.2)
    assert workers.gate.release() is State.PROBING
    assert workers.run_queue() == ["a"]


def test_the_probe_is_a_batch_of_one(workers: Deployment, clock: Clock) -> None:
    workers.open()
    workers.hold("a")
    for number in range(3):
        workers.store.push("a", "text", id=f"more {number}", kind="k")
    clock.wait(61)
    workers.gate.release()
    assert len(workers.claim_next("a").items) == 1


def test_nobody_else_calls_during_the_probe(workers: Deployment, clock: Clock) -> None:
    workers.open()
    clock.wait(61)
    probe = workers.go("a")
    assert probe.probe
    assert workers.ask(workers.claim("b")) == Hold(Why.PROBING)
    assert workers.gate.report(probe, Ended.OK, 0.1) is State.CLOSED
    assert workers.run_queue() == ["b"]


def test_a_worker_that_dies_with_the_probe_holds_recovery_up_no_longer_than_its_token(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    clock.wait(61)
    assert workers.go("a").probe
    workers.hold("b")
    clock.wait(34.9)
    assert workers.gate.release() is State.PROBING
    clock.wait(0.2)
    assert workers.gate.release() is State.OPEN
    probe_at = workers.gate.status().probe_at
    assert probe_at == pytest.approx(clock.now + 120)
    clock.wait(121)
    workers.gate.release()
    assert workers.run_queue() == ["b"]


def test_a_probe_that_does_not_come_leaves_its_turn_to_the_next(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    workers.hold("a")
    workers.hold("b")
    clock.wait(61)
    workers.gate.release()
    clock.wait(2)
    workers.gate.release()
    assert workers.run_queue() == ["a", "b"]
    assert workers.ask(workers.claim_next("a")) == Hold(Why.PROBING)
    answer = workers.ask(workers.claim_next("b"))
    assert isinstance(answer, Go)
    assert answer.probe


def test_an_outage_is_as_old_as_its_first_failure_whatever_is_probed(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    opened = clock.now
    for wait in (61, 122):
        clock.wait(wait)
        failed = workers.go(f"probe after {wait} s")
        assert workers.gate.report(failed, Ended.FAILED, 0.1) is State.OPEN
    assert workers.gate.status().since == pytest.approx(opened)
    clock.wait(250)
    assert workers.gate.report(workers.go("probe"), Ended.OK, 0.1) is State.CLOSED
    assert workers.gate.status().since == pytest.approx(clock.now)


def test_a_retry_after_holds_the_probe_as_well(workers: Deployment, clock: Clock) -> None:
    calls = [workers.go(f"failing {number}") for number in range(4)]
    workers.gate.report(calls[0], Ended.LIMITED, 0.1, 300.0)
    for call in calls[1:]:
        workers.gate.report(call, Ended.FAILED, 0.1)
    workers.hold("a")
    clock.wait(300)
    assert workers.gate.release() is State.OPEN
    assert workers.ask(workers.claim("b")) == Hold(Why.OPEN)
    clock.wait(16)  # the pause was jittered by a twentieth
    assert workers.gate.release() is State.PROBING
    assert workers.run_queue() == ["a"]


def test_a_late_result_adds_its_sample_and_moves_no_state(workers: Deployment) -> None:
    late = workers.go("a")
    workers.open()
    assert workers.gate.report(late, Ended.OK, 0.1) is State.OPEN
    status = workers.gate.status()
    assert (status.classes[0].samples, status.counters["late"]) == (1, 1)


def test_a_report_that_is_repeated_counts_once(workers: Deployment) -> None:
    go = workers.go("a")
    for _ in range(3):
        workers.gate.report(go, Ended.FAILED, 0.1)
    assert workers.gate.status().failures == 1


# -- release and resume ---------------------------------------------------------------------------


def test_held_sessions_come_back_in_order_after_a_pause(workers: Deployment, clock: Clock) -> None:
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 5.0)
    for session in "abc":
        workers.hold(session)
    clock.wait(5)
    workers.gate.release()
    assert workers.run_queue() == []
    clock.wait(0.3)  # the pause was jittered by a twentieth
    workers.gate.release()
    assert workers.run_queue() == ["a"]  # a 429 starts the ramp at one call
    answer = workers.ask(workers.claim_next("a"))
    assert isinstance(answer, Go)
    workers.gate.report(answer, Ended.OK, 0.1)
    assert workers.run_queue() == ["b", "c"]
    assert workers.queue() == []


def test_a_pause_says_why_and_is_never_shortened(workers: Deployment, clock: Clock) -> None:
    first, second = workers.go("a"), workers.go("b")
    workers.gate.report(first, Ended.LIMITED, 0.1, 60.0, why="429")
    workers.gate.report(second, Ended.LIMITED, 0.1, 1.0, why="not this")
    status = workers.gate.status()
    assert status.pause_until == pytest.approx(clock.now + 63)
    assert status.pause_why == "429"


def test_a_denial_opens_says_why_and_is_told_once(
    workers: Deployment, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = [workers.go(f"s{number}") for number in range(3)]
    for call in calls:
        workers.gate.report(call, Ended.DENIED, 0.1, why="HTTP 401: no key")
    status = workers.gate.status()
    assert (status.state, status.denied) == (State.OPEN, "HTTP 401: no key")
    assert (status.counters["opened"], status.counters["denied"]) == (1, 1)
    # A probe that is denied as well is no news
    clock.wait(60)
    workers.gate.report(workers.go("probe"), Ended.DENIED, 0.1, why="HTTP 401: no key")
    assert workers.gate.status().state is State.OPEN
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "HTTP 401: no key" in caplog.text
    # One that is let in ends it
    clock.wait(60)
    workers.gate.report(workers.go("another"), Ended.OK, 0.1)
    status = workers.gate.status()
    assert (status.state, status.denied) == (State.CLOSED, "")


def test_a_key_that_is_one_workers_own_opens_nothing(workers: Deployment) -> None:
    for call, ended in (("well#1", Ended.OK), ("bad#2", Ended.DENIED), ("bad#3", Ended.DENIED)):
        go = workers.ask(workers.claim(f"of {call}"), call=call)
        assert isinstance(go, Go)
        assert workers.gate.report(go, ended, 0.1) is State.CLOSED


def test_a_permit_is_void_after_two_seconds(workers: Deployment, clock: Clock) -> None:
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 1.0)
    workers.hold("a")
    workers.hold("b")
    clock.wait(2)
    workers.gate.release()
    slow = workers.claim_next("a")
    clock.wait(2)
    assert workers.ask(slow) == Hold(Why.QUEUE)
    assert workers.queue() == ["b", "a"]


def test_a_permit_is_void_when_the_breaker_opens(
    make: Callable[..., Deployment], clock: Clock
) -> None:
    workers = make(failures=1)
    first, *others, last = [workers.go(f"x{number}") for number in range(4)]
    workers.gate.report(first, Ended.LIMITED, 0.1, 1.0)
    workers.hold("a")
    clock.wait(2)
    for call in others:
        workers.gate.report(call, Ended.OK, 0.1)
    assert workers.gate.status().permits == 1
    workers.gate.report(last, Ended.FAILED, 0.1)
    assert workers.gate.status().permits == 0
    assert workers.ask(workers.claim_next("a")) == Hold(Why.OPEN)


def test_what_a_dead_client_did_not_resume_is_named_again(
    workers: Deployment, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 1.0)
    workers.hold("a")
    clock.wait(2)
    with monkeypatch.context() as patch:
        patch.setattr(Gate, "resume", lambda *_: 0)
        workers.gate.release()
    assert workers.run_queue() == []
    workers.gate.release()
    assert workers.run_queue() == ["a"]


def test_a_release_moves_sixteen_at_a_time_where_no_limit_is(
    make: Callable[..., Deployment], clock: Clock
) -> None:
    workers = make(rate=1000.0, burst=1000)
    key = workers.store.names.gate(NAME)[0]
    workers.store.client.hset(key, "pause_until", (START + 1) * 1000)
    for number in range(40):
        workers.hold(f"s{number}")
    clock.wait(1)
    workers.gate.release()
    assert workers.run_queue() == [f"s{number}" for number in range(16)]


def test_sessions_come_at_the_pace(make: Callable[..., Deployment], clock: Clock) -> None:
    workers = make(rate=5.0)
    assert workers.go("a").delay == 0
    for session in "bcd":
        assert workers.ask(workers.claim(session)) in (Hold(Why.PACE), Hold(Why.QUEUE))
    workers.gate.release()
    # Half a second ahead, at 208 ms each; the worker waits for the rest.
    delays = []
    for session in "bc":
        answer = workers.ask(workers.claim_next(session))
        assert isinstance(answer, Go)
        delays.append(answer.delay)
    assert delays == pytest.approx([208, 416])
    assert workers.run_queue() == []


def test_calls_far_ahead_at_a_slow_pace_are_not_taken_for_those_of_another_clock(
    make: Callable[..., Deployment],
) -> None:
    workers = make(rate=0.5, probe_longest=60.0, retry_after_cap=60.0)
    claimed, calls = workers.claim("a"), workers.store.names.gate(NAME)[2]
    for number in range(1, 301):  # after the first, as many as it likes: the session has its turn
        answer = workers.ask(claimed)
        assert isinstance(answer, Go)
        assert answer.delay == pytest.approx(2080 * (number - 1))
    workers.gate.release()
    assert workers.store.client.zcard(calls) == 300
    report = Check(workers.store, workers.gate.policy).run()
    assert not report.findings


def test_the_timer_looks_at_every_gate_that_holds_sessions(
    workers: Deployment, clock: Clock
) -> None:
    policy = workers.gate.policy
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 1.0)
    workers.hold("a")
    clock.wait(2)
    release_all(workers.store, policy)
    assert workers.run_queue() == ["a"]
    assert workers.store.client.zscore(workers.store.names.gates, NAME) == 0


def test_gates_do_not_meet(workers: Deployment, clock: Clock) -> None:
    workers.open()
    other = Gate(workers.store, workers.gate.policy, f"{NAME}:held")
    claimed = workers.claim("a")
    answer = other.admit("a", claimed.token, (1, 1), "call", 1)
    assert isinstance(answer, Go)
    names = workers.store.names
    assert not set(names.gate(NAME)) & set(names.gate(f"{NAME}:held")) - {names.gates}


# -- the deadline ---------------------------------------------------------------------------------


def test_the_deadline_follows_the_p95_of_its_class(workers: Deployment) -> None:
    for number in range(20):
        workers.gate.report(workers.go(f"s{number}"), Ended.OK, 2.0 if number else 9.0)
    assert workers.go("a").deadline == 6_000
    assert workers.go("b", size=20).deadline == 30_000
    assert workers.go("c", size=0).deadline == 30_000


@pytest.mark.parametrize("seconds", [math.nan, -1.0])
def test_a_duration_that_is_none_is_no_sample(workers: Deployment, seconds: float) -> None:
    workers.gate.report(workers.go("a"), Ended.OK, seconds)
    assert workers.gate.status().classes[0].samples == 0


def test_a_timeout_below_the_ceiling_lifts_its_class_and_the_larger_ones(
    workers: Deployment,
) -> None:
    for size in (1, 20, 100):
        for number in range(10):
            workers.gate.report(workers.go(f"{size} {number}", size), Ended.OK, 0.1)
    assert [c.deadline for c in workers.gate.status().classes] == [5, 5, 5]
    workers.gate.report(workers.go("a", 20), Ended.TIMEOUT, 5.0)
    status = workers.gate.status()
    assert [c.deadline for c in status.classes] == [5, 30, 30]
    assert (status.failures, status.state) == (0, State.CLOSED)
    for number in range(30):
        workers.gate.report(workers.go(f"after {number}", 20), Ended.OK, 0.1)
    assert [c.deadline for c in workers.gate.status().classes] == [5, 5, 30]


def test_samples_count_for_ten_minutes(workers: Deployment, clock: Clock) -> None:
    for number in range(10):
        workers.gate.report(workers.go(f"s{number}"), Ended.OK, 0.1)
    clock.wait(600)
    assert workers.go("a").deadline == 30_000
    assert workers.gate.status().classes[0].samples == 0


# -- a clock that steps back ----------------------------------------------------------------------


def test_an_open_breaker_does_not_wait_for_a_clock_that_stepped_back(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    workers.hold("a")
    clock.wait(-3600)
    assert workers.gate.release() is State.PROBING
    assert workers.run_queue() == ["a"]


def test_no_pause_and_no_probe_outlasts_a_clock_that_stepped_back(
    workers: Deployment, clock: Clock
) -> None:
    workers.open()
    clock.wait(61)
    assert workers.go("a").probe
    clock.wait(-3600)
    assert workers.gate.release() is State.OPEN
    clock.wait(140)
    probe = workers.go("b")
    workers.gate.report(probe, Ended.LIMITED, 0.1, 900.0)
    workers.hold("c")
    clock.wait(-3600)
    workers.gate.release()
    assert workers.run_queue() == ["c"]


def test_a_call_of_before_the_clock_stepped_back_is_not_in_flight_for_ever(
    workers: Deployment, clock: Clock
) -> None:
    workers.gate.report(workers.go("a"), Ended.LIMITED, 0.1, 1.0)
    clock.wait(2)
    workers.go("b")
    workers.hold("c")
    clock.wait(-3600)
    workers.gate.release()
    assert workers.run_queue() == ["c"]


# -- a server in trouble --------------------------------------------------------------------------


def test_a_server_that_forgot_its_scripts_is_told_them_again(
    workers: Deployment, clock: Clock
) -> None:
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 1.0)
    workers.hold("a")
    clock.wait(2)
    workers.store.client.script_flush()
    workers.gate.release()
    assert workers.run_queue() == ["a"]


def test_a_server_without_memory_still_holds_and_releases(
    make_server: Callable[..., Server], prefix: str
) -> None:
    with make_server().client() as client:
        store = SessionStore(client, Names(prefix), SessionOptions(lease=10))
        gate = Gate(store, Policy(), NAME)
        for number in range(4):
            store.push(f"s{number}", "text", id=f"{number}", kind="k")
        claims = []
        for number in range(4):
            entry: Any = client.rpop(store.names.run)
            claims.append(store.claim(f"s{number}", int(json.loads(entry)[0]), f"t{number}", "w"))
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            store.push("s0", "text", id="refused", kind="k")
        for number, claimed in enumerate(claims[:3]):
            assert claimed is not None
            go = gate.admit(claimed.session, claimed.token, (1, 1), f"c{number}", 1)
            assert isinstance(go, Go)
            gate.report(go, Ended.FAILED, 0.1)
        assert gate.status().state is State.OPEN
        last = claims[3]
        assert last is not None
        assert isinstance(gate.admit(last.session, last.token, (1, 1), "c3", 1), Hold)
        client.config_set("maxmemory", 0)
        client.hset(store.names.gate(NAME)[0], "probe_at", 1)
        client.config_set("maxmemory", 1)
        assert gate.release() is State.PROBING
        assert store.progress("s3").state == "ready"


# -- by hand --------------------------------------------------------------------------------------

HALF_AN_HOUR = 1800.0


def test_a_gate_can_be_opened_before_any_worker_has_called(
    workers: Deployment, clock: Clock
) -> None:
    # Given a maintenance of a backend that nobody has called yet
    workers.gate.open(HALF_AN_HOUR, "a new disk")
    assert [gate.name for gate in known_gates(workers.store, workers.gate.policy)] == [NAME]
    status = workers.gate.status()
    assert status.state is State.OPEN
    assert status.maintenance == Maintenance(clock.now, clock.now + HALF_AN_HOUR, "a new disk")
    assert status.probe_at == clock.now + HALF_AN_HOUR
    # If sessions come
    for session in "ab":
        assert workers.ask(workers.claim(session)) == Hold(Why.MAINTENANCE)
    # Then none is let go, nor any probe, until it is over
    clock.wait(HALF_AN_HOUR - 1)
    assert workers.gate.release() is State.OPEN
    assert workers.queue() == ["a", "b"]
    # And then the oldest is the probe
    clock.wait(1)
    assert workers.gate.status().maintenance is None
    assert workers.gate.release() is State.PROBING
    assert workers.run_queue() == ["a"]
    probe = workers.ask(workers.claim_next("a"))
    assert isinstance(probe, Go)
    assert probe.probe
    # And the others follow it with the ramp
    assert workers.gate.report(probe, Ended.OK, 0.1) is State.CLOSED
    assert workers.gate.status().limit == 1
    assert workers.run_queue() == ["b"]


def test_a_maintenance_without_an_end_lasts_until_somebody_closes(
    workers: Deployment, clock: Clock
) -> None:
    workers.gate.open(why="who knows")
    workers.hold("a")
    clock.wait(30 * 86_400)
    assert workers.gate.release() is State.OPEN
    status = workers.gate.status()
    assert (status.probe_at, status.maintenance) == (None, Maintenance(START, None, "who knows"))
    assert workers.gate.close()
    assert workers.gate.status().state is State.CLOSED
    assert workers.run_queue() == ["a"]


def test_who_closes_lets_sessions_go_on_with_the_ramp(workers: Deployment) -> None:
    workers.gate.open(HALF_AN_HOUR)
    for session in "abc":
        workers.hold(session)
    assert workers.gate.close()
    assert workers.run_queue() == ["a"]
    assert not workers.gate.close(), "it was closed already"
    assert workers.gate.status().limit == 1


def test_a_breaker_that_failures_have_opened_is_closed_by_hand(workers: Deployment) -> None:
    workers.open()
    workers.hold("a")
    assert workers.gate.close()
    assert workers.gate.status().state is State.CLOSED
    assert workers.run_queue()[-1] == "a"


def test_a_maintenance_takes_an_open_breakers_probe_away(workers: Deployment, clock: Clock) -> None:
    workers.open()
    workers.hold("a")
    workers.gate.open(HALF_AN_HOUR)
    clock.wait(HALF_AN_HOUR - 1)  # long after the probe would have been due
    assert workers.gate.release() is State.OPEN
    clock.wait(1)
    assert workers.gate.release() is State.PROBING


def test_a_probe_that_is_under_way_when_a_maintenance_begins_says_nothing_of_it(
    workers: Deployment, clock: Clock
) -> None:
    # Given a probe, and another session that asks its question and is let go
    workers.open()
    clock.wait(61)
    claimed = workers.claim("a")
    probe = workers.ask(claimed, size=0)
    assert isinstance(probe, Go)
    # If the gate is opened by hand meanwhile
    workers.gate.open(HALF_AN_HOUR)
    # I expect that its answer moves nothing, and that its next call is held
    assert workers.gate.report(probe, Ended.OK, 0.1) is State.OPEN
    assert workers.gate.status().counters["late"] == 1
    assert workers.ask(claimed) == Hold(Why.MAINTENANCE)


def test_a_maintenance_and_a_pause_hold_each_as_long_as_it_lasts(
    workers: Deployment, clock: Clock
) -> None:
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 600.0)
    workers.gate.open(60, "short")
    workers.hold("a")
    clock.wait(61)
    assert workers.gate.release() is State.OPEN, "a probe in spite of Retry-After"
    # Who closes does not shorten what the backend asked for
    workers.gate.close()
    assert workers.gate.status().pause_until is not None
    assert "a" not in workers.run_queue()
    # But who resets does
    workers.gate.reset()
    assert workers.gate.status().pause_until is None
    assert "a" in workers.run_queue()


@pytest.mark.parametrize("step", [-3600.0, -10 * 86_400.0])
def test_a_clock_that_steps_back_does_not_make_a_maintenance_longer_than_it_was_to_be(
    workers: Deployment, clock: Clock, step: float
) -> None:
    workers.gate.open(HALF_AN_HOUR, "a new disk")
    workers.hold("a")
    clock.wait(step)
    maintenance = workers.gate.status().maintenance
    assert maintenance is not None
    assert maintenance.until == clock.now + HALF_AN_HOUR
    assert workers.gate.release() is State.OPEN
    clock.wait(HALF_AN_HOUR - 1)
    assert workers.gate.release() is State.OPEN
    clock.wait(1)
    assert workers.gate.release() is State.PROBING


def test_a_clock_that_steps_forward_lets_in_no_more_than_a_probe(
    workers: Deployment, clock: Clock
) -> None:
    workers.gate.open(HALF_AN_HOUR)
    for session in "ab":
        workers.hold(session)
    clock.wait(86_400)
    assert workers.gate.release() is State.PROBING
    assert workers.run_queue() == ["a"]


def test_a_second_maintenance_replaces_the_first(workers: Deployment, clock: Clock) -> None:
    workers.gate.open(60, "short")
    clock.wait(30)
    workers.gate.open(HALF_AN_HOUR, "longer\nthan thought")
    maintenance = Maintenance(clock.now, clock.now + HALF_AN_HOUR, "longer than thought")
    assert workers.gate.status().maintenance == maintenance


def test_a_reset_forgets_all_that_was_learned_and_nothing_that_was_counted(
    workers: Deployment, clock: Clock
) -> None:
    # Given a gate that knows latencies, has a ramp, a limit and a breaker that is open
    for number in range(12):
        workers.gate.report(workers.go(f"s{number}"), Ended.OK, 7.0)
    workers.gate.report(workers.go("x"), Ended.LIMITED, 0.1, 5.0)
    clock.wait(6)
    workers.open()
    held = [workers.hold(session).session for session in "abc"]
    before = workers.gate.status()
    assert before.limit is not None
    # If it is reset
    assert workers.gate.reset()
    # I expect what a new gate has, but for the counters
    status = workers.gate.status()
    assert (status.state, status.limit, status.failures) == (State.CLOSED, None, 0)
    assert status.epoch > before.epoch
    assert {(one.p95, one.samples, one.deadline) for one in status.classes} == {(None, 0, 30.0)}
    assert status.counters == before.counters
    # And all who were held to go on
    assert workers.run_queue()[-3:] == held


def test_hooks_are_told_of_a_gate_that_is_steered(workers: Deployment) -> None:
    heard: list[tuple[str, str]] = []

    def listen(state: str, detail: str, **_: object) -> None:
        heard.append((state, detail))

    hooks.breaker_changed.connect(listen)
    try:
        workers.gate.open(HALF_AN_HOUR, "a new disk")
        workers.gate.open(HALF_AN_HOUR, "a newer disk")
        workers.gate.close()
        hooks.drain(5)
    finally:
        hooks.breaker_changed.disconnect(listen)
    assert heard == [("open", "a new disk"), ("closed", "closed by hand")]


def test_what_somebody_else_wrote_about_a_maintenance_stops_nothing(workers: Deployment) -> None:
    workers.store.client.hset(workers.store.names.gate(NAME)[0], "shut", "for ever and ever")
    assert workers.gate.status().maintenance is None
    workers.go("a")
