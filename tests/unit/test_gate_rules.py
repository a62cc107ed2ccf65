"""The decisions of the gate, one by one: what each rule is for, and what it must not do."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from hermes_tasks.gate.policy import Policy
from hermes_tasks.gate.rules import (
    RAISED_CALLS,
    RELEASE_WIDTH,
    Ended,
    Expiring,
    GateRules,
    Go,
    Hold,
    LatencyWindow,
    Release,
    State,
    Why,
    class_of,
    nearest_rank,
)

SECOND = 1000.0
MINUTE = 60 * SECOND
START = 1_800_000_000 * SECOND
MIDDLE = 0.5  # the jitter that leaves a probe's interval as it is


class Caller:
    """A gate with a clock, and calls that are made through it by name.

    Attributes:
        now: ms; tests move it.
        rules: the gate.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.now = START
        self.rules = GateRules(policy or Policy())
        self._calls: dict[str, Go] = {}

    def wait(self, seconds: float) -> None:
        self.now += seconds * SECOND

    def ask(self, session: str, size: int = 1, *, followup: bool = False) -> Go | Hold:
        """Admit a call whose id is its session's name."""
        answer = self.rules.admit(
            self.now, session, session, size, followup=followup, jitter=MIDDLE
        )
        if isinstance(answer, Go):
            self._calls[session] = answer
        return answer

    def go(self, session: str, size: int = 1, *, followup: bool = False) -> Go:
        answer = self.ask(session, size, followup=followup)
        assert isinstance(answer, Go), answer
        return answer

    def held(self, session: str, *, followup: bool = False) -> Why:
        answer = self.ask(session, followup=followup)
        assert isinstance(answer, Hold), answer
        return answer.why

    def end(
        self,
        session: str,
        ended: Ended = Ended.OK,
        seconds: float = 0.2,
        *,
        retry_after: float = -1.0,
        jitter: float = MIDDLE,
        deadline: float | None = None,
    ) -> Release:
        """Report the session's call after it took so long."""
        go = self._calls[session]
        if seconds > 0:
            self.wait(seconds)
        return self.rules.report(
            self.now,
            session,
            go.epoch,
            go.size_class,
            ended,
            seconds * SECOND,
            go.deadline if deadline is None else deadline,
            retry_after=retry_after,
            why="no key",
            jitter=jitter,
        )

    def call(self, session: str, ended: Ended = Ended.OK, seconds: float = 0.2) -> Release:
        self.go(session)
        return self.end(session, ended, seconds)

    def resume(self, released: Release) -> list[str]:
        for session in released.sessions:
            self.rules.resume(session)
        return list(released.sessions)

    def open(self) -> None:
        """Three calls fail one after the other."""
        for name in ("a", "b", "c"):
            self.call(name, Ended.FAILED, 0.0)
        assert self.state() is State.OPEN

    def recover(self) -> None:
        """An outage, and a probe that succeeds: the ramp begins."""
        self.open()
        self.wait(60)
        self.call("probe")
        assert self.state() is State.CLOSED

    def state(self) -> State:
        return self.rules.breaker.state


@pytest.fixture
def caller() -> Caller:
    return Caller()


# -- the deadline: the seed's HonchoLatencyTracker ---------------------------------------------


def window(*seconds: float, policy: Policy | None = None) -> LatencyWindow:
    found = LatencyWindow(policy or Policy())
    for number, duration in enumerate(seconds):
        found.observe(START + number, duration * SECOND, f"{number}")
    return found


@pytest.mark.parametrize(
    ("count", "rank"), [(1, 1), (10, 10), (19, 19), (20, 19), (21, 20), (100, 95), (256, 244)]
)
def test_the_percentile_is_the_nearest_rank(count: int, rank: int) -> None:
    assert nearest_rank([float(value) for value in range(1, count + 1)]) == rank


def test_a_window_that_is_not_warm_gives_the_ceiling() -> None:
    assert window(*[0.1] * 9).deadline(START + 9) == 30 * SECOND


def test_a_warm_window_gives_headroom_times_p95() -> None:
    assert window(*[2.0] * 10).deadline(START + 10) == 6 * SECOND


def test_the_deadline_has_a_floor() -> None:
    assert window(*[0.1] * 10).deadline(START + 10) == 5 * SECOND


def test_the_deadline_has_a_ceiling() -> None:
    assert window(*[12.0] * 10).deadline(START + 10) == 30 * SECOND


def test_the_floor_follows_the_policy() -> None:
    policy = Policy(floor=1.0, headroom=2.0)
    assert window(*[0.1] * 10, policy=policy).deadline(START + 10) == 1 * SECOND
    assert window(*[0.9] * 10, policy=policy).deadline(START + 10) == 1.8 * SECOND


def test_the_oldest_samples_leave_a_full_window() -> None:
    full = window(*[20.0] * 30, *[0.2] * 30, policy=Policy(window=20))
    assert len(full) == 20
    assert full.p95 == 0.2 * SECOND


def test_samples_grow_too_old() -> None:
    aged = window(*[0.2] * 20)
    assert aged.deadline(START + 9 * MINUTE) == 5 * SECOND
    # Nothing arrives for ten minutes: what is known then is nothing.
    assert aged.deadline(START + 10 * MINUTE + 19) == 30 * SECOND
    # And one new sample does not make the old ones count again.
    aged.observe(START + 11 * MINUTE, 200.0, "new")
    assert len(aged) == 1
    assert aged.deadline(START + 11 * MINUTE) == 30 * SECOND


def test_a_sample_reported_twice_counts_once() -> None:
    twice = window(0.2)
    twice.observe(START + 1, 200.0, "0")
    assert len(twice) == 1


@pytest.mark.parametrize("duration", [math.nan, -1.0])
def test_what_is_no_duration_is_no_sample(caller: Caller, duration: float) -> None:
    caller.go("a")
    caller.end("a", seconds=duration)
    assert len(caller.rules.windows[4]) == 0
    assert caller.state() is State.CLOSED


@pytest.mark.parametrize("ended", [e for e in Ended if e is not Ended.OK])
def test_only_successes_are_samples(caller: Caller, ended: Ended) -> None:
    caller.call("a", ended)
    assert len(caller.rules.windows[4]) == 0


@pytest.mark.parametrize(
    ("size", "size_class"), [(0, 0), (1, 4), (4, 4), (5, 20), (20, 20), (21, 100), (100, 100)]
)
def test_calls_are_classed_by_their_messages(size: int, size_class: int) -> None:
    assert class_of(size) == size_class


def test_each_size_class_has_its_own_deadline(caller: Caller) -> None:
    for number in range(10):
        caller.go(f"{number}", size=1)
        caller.end(f"{number}", seconds=0.2)
    for number in range(10):
        caller.go(f"{number}", size=100)
        caller.end(f"{number}", seconds=8)
    assert caller.go("small", size=4).deadline == 5 * SECOND
    assert caller.go("medium", size=20).deadline == 30 * SECOND  # none known
    assert caller.go("large", size=100).deadline == 24 * SECOND


def test_a_call_that_writes_nothing_has_the_ceiling_and_leaves_no_sample(caller: Caller) -> None:
    for number in range(20):
        caller.go(f"{number}", size=0)
        caller.end(f"{number}")
    assert caller.go("question", size=0).deadline == 30 * SECOND
    assert all(len(found) == 0 for found in caller.rules.windows.values())


def warm(caller: Caller, *sizes: int) -> None:
    for size in sizes:
        for number in range(10):
            caller.go(f"warm-{number}", size=size)
            caller.end(f"warm-{number}")


def test_a_timeout_below_the_ceiling_lifts_its_class_and_the_larger_ones(caller: Caller) -> None:
    warm(caller, 4, 20, 100)
    caller.go("a", size=20)
    caller.end("a", Ended.TIMEOUT, 5)
    assert caller.go("small", size=4).deadline == 5 * SECOND
    assert caller.go("medium", size=20).deadline == 30 * SECOND
    assert caller.go("large", size=100).deadline == 30 * SECOND


def test_a_lifted_class_comes_down_after_thirty_fast_calls_in_a_row(caller: Caller) -> None:
    warm(caller, 4)
    caller.go("a")
    caller.end("a", Ended.TIMEOUT, 5)
    for _ in range(RAISED_CALLS - 1):
        caller.call("a")
    assert caller.go("still").deadline == 30 * SECOND
    caller.end("still", seconds=6)  # not under the floor: counted from the start again
    for _ in range(RAISED_CALLS):
        assert caller.go("a").deadline == 30 * SECOND
        caller.end("a")
    assert caller.go("b").deadline < 30 * SECOND


def test_a_backend_that_becomes_slow_is_followed_without_an_open(caller: Caller) -> None:
    warm(caller, 4)
    for number in range(50):  # every one of these is cut, until the deadline has followed
        go = caller.go(f"{number}")
        fits = go.deadline > 12 * SECOND
        caller.end(f"{number}", Ended.OK if fits else Ended.TIMEOUT, 12 if fits else 5)
    assert caller.state() is State.CLOSED
    assert caller.rules.windows[4].p95 == 12 * SECOND


# -- the breaker: the seed's CircuitBreaker ----------------------------------------------------


def test_the_breaker_starts_closed(caller: Caller) -> None:
    assert caller.state() is State.CLOSED
    caller.go("a")


def test_it_opens_after_as_many_failures_in_a_row(caller: Caller) -> None:
    caller.call("a", Ended.FAILED)
    caller.call("b", Ended.FAILED)
    assert caller.state() is State.CLOSED
    caller.call("c", Ended.FAILED)
    assert caller.state() is State.OPEN
    assert caller.held("d") is Why.OPEN


@pytest.mark.parametrize("well", [Ended.OK, Ended.REFUSED, Ended.LIMITED])
def test_an_answer_that_shows_the_backend_well_ends_the_row(caller: Caller, well: Ended) -> None:
    for _ in range(5):
        caller.call("a", Ended.FAILED)
        caller.call("b", Ended.FAILED)
        caller.call("c", well)
        caller.wait(2)  # the pause of a 429
    assert caller.state() is State.CLOSED


def test_only_a_timeout_at_the_ceiling_is_a_failure(caller: Caller) -> None:
    warm(caller, 4)
    for number in range(3):
        caller.go(f"{number}")
    for number in range(3):  # each was cut at the floor
        caller.end(f"{number}", Ended.TIMEOUT, 5 if number == 0 else 0)
    assert caller.state() is State.CLOSED
    for number in range(3):  # now the ceiling is in force
        caller.call(f"{number}", Ended.TIMEOUT, 30)
    assert caller.state() is State.OPEN


def test_a_timeout_below_the_ceiling_neither_counts_nor_ends_the_row(caller: Caller) -> None:
    warm(caller, 4)
    caller.go("short")
    caller.call("a", Ended.FAILED, 0)
    caller.call("b", Ended.FAILED, 0)
    caller.end("short", Ended.TIMEOUT, 5)
    assert caller.rules.breaker.failures == 2
    caller.call("c", Ended.FAILED, 0)
    assert caller.state() is State.OPEN


def test_many_calls_in_flight_need_as_many_failures(caller: Caller) -> None:
    for number in range(50):
        caller.go(f"{number}")
    for number in range(25):
        caller.end(f"{number}", Ended.FAILED, 0)
    # The 25th failure in a row, with 26 in flight a moment ago.
    assert caller.state() is State.CLOSED
    caller.end("25", Ended.FAILED, 0)
    assert caller.state() is State.OPEN


def test_a_dead_workers_call_is_not_in_flight_for_ever(caller: Caller) -> None:
    for number in range(50):
        caller.go(f"{number}")
    caller.wait(35)  # deadline and grace
    caller.open()


def test_opening_starts_an_epoch_and_late_results_move_nothing(caller: Caller) -> None:
    late = caller.go("late")
    caller.open()
    caller.wait(60)
    caller.go("probe")
    caller.end("late", Ended.OK)  # of the epoch before: no recovery
    assert caller.state() is State.PROBING
    assert len(caller.rules.windows[4]) == 1  # but a sample
    assert caller.rules.counters["late"] == 1
    assert caller.rules.breaker.epoch > late.epoch


def test_a_late_failure_does_not_count_against_a_recovered_backend(caller: Caller) -> None:
    for name in ("x", "y", "z"):
        caller.go(name)
    for name in "abcdef":
        caller.go(name)
    for name in "abcdef":
        caller.end(name, Ended.FAILED, 0)
    assert caller.state() is State.OPEN
    caller.wait(30)
    caller.rules.breaker.probe_at = caller.now
    caller.call("probe", seconds=0)
    assert caller.state() is State.CLOSED
    for name in ("x", "y", "z"):
        caller.end(name, Ended.FAILED, 0)
    assert caller.state() is State.CLOSED
    assert caller.rules.breaker.failures == 0


def test_a_report_that_is_repeated_moves_nothing(caller: Caller) -> None:
    caller.go("a")
    for _ in range(5):
        caller.end("a", Ended.FAILED, 0)
    assert caller.rules.breaker.failures == 1


def test_unsent_says_nothing_about_the_backend(caller: Caller) -> None:
    for _ in range(5):
        caller.call("a", Ended.UNSENT, 0)
    assert caller.state() is State.CLOSED
    assert len(caller.rules.calls) == 0


# -- probes ------------------------------------------------------------------------------------


def test_no_call_before_the_probe_is_due(caller: Caller) -> None:
    caller.open()
    caller.wait(59)
    assert caller.held("d") is Why.OPEN
    assert caller.rules.release(caller.now) == Release()


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 54.0), (0.5, 60.0), (0.999, 66.0)])
def test_the_probe_interval_is_jittered(caller: Caller, jitter: float, seconds: float) -> None:
    for name in "abc":
        caller.go(name)
    for name in "abc":
        caller.end(name, Ended.FAILED, 0, jitter=jitter)
    due = caller.rules.breaker.probe_at - caller.now
    assert due == pytest.approx(seconds * SECOND, rel=0.001)


def test_the_oldest_held_session_is_the_only_probe(caller: Caller) -> None:
    caller.open()
    for name in ("first", "second"):
        caller.held(name)
    caller.wait(60)
    # A newcomer finds others before it: it is not the probe, though one is due.
    assert caller.held("newcomer") is Why.OPEN
    released = caller.rules.release(caller.now)
    assert released == Release(True, ("first",))
    caller.resume(released)
    assert caller.held("newcomer") is Why.PROBING
    assert caller.go("first").probe
    assert caller.held("second") is Why.PROBING
    assert caller.rules.counters["probes"] == 1


def test_with_nobody_held_the_first_to_come_is_the_probe(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    assert caller.go("d").probe
    assert caller.held("e") is Why.PROBING


def test_the_probe_has_the_ceiling(caller: Caller) -> None:
    warm(caller, 4)
    caller.open()
    caller.wait(60)
    assert caller.go("probe").deadline == 30 * SECOND


@pytest.mark.parametrize("well", [Ended.OK, Ended.REFUSED, Ended.LIMITED])
def test_a_probe_that_is_answered_closes(caller: Caller, well: Ended) -> None:
    caller.open()
    caller.wait(60)
    caller.call("probe", well)
    assert caller.state() is State.CLOSED
    assert caller.rules.ramp.limit == 1


@pytest.mark.parametrize("bad", [Ended.FAILED, Ended.TIMEOUT])
def test_a_probe_that_fails_opens_for_twice_as_long(caller: Caller, bad: Ended) -> None:
    caller.open()
    waits = []
    for _ in range(6):
        caller.now = caller.rules.breaker.probe_at
        caller.call("probe", bad)
        assert caller.state() is State.OPEN
        waits.append((caller.rules.breaker.probe_at - caller.now) / SECOND)
    assert waits == pytest.approx([120, 240, 480, 600, 600, 600])


def test_a_denied_call_opens_at_once(caller: Caller) -> None:
    caller.call("a")
    caller.call("b", Ended.DENIED)
    assert caller.state() is State.OPEN
    assert caller.rules.breaker.denied == "no key"
    caller.wait(60)
    caller.call("probe")
    assert caller.state() is State.CLOSED
    assert caller.rules.breaker.denied is None


def test_a_denied_probe_opens_for_as_long_as_the_first_time(caller: Caller) -> None:
    caller.open()
    for _ in range(3):
        caller.now = caller.rules.breaker.probe_at
        caller.call("probe", Ended.DENIED)
        assert caller.state() is State.OPEN
        assert caller.rules.breaker.probe_at - caller.now == pytest.approx(60 * SECOND)
    # What the next one meets is what is told
    caller.now = caller.rules.breaker.probe_at
    caller.call("probe", Ended.FAILED)
    assert caller.rules.breaker.denied is None


def test_a_key_that_is_one_workers_own_stops_nobody_else(caller: Caller) -> None:
    caller.call("well#1")
    for number in range(5):
        caller.call(f"bad#{number}", Ended.DENIED, 0)
    assert caller.state() is State.CLOSED
    # Until nobody has been well for as long as a call may take
    caller.wait(30)
    caller.call("bad#6", Ended.DENIED, 0)
    assert caller.state() is State.OPEN
    assert caller.rules.counters["denied"] == 6


def test_the_interval_starts_anew_after_a_recovery(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    caller.call("probe", Ended.FAILED)
    caller.wait(120)
    caller.call("probe")
    caller.open()
    assert caller.rules.breaker.probe_at - caller.now == pytest.approx(60 * SECOND)


def test_a_probe_never_sent_passes_on_to_the_next_in_line(caller: Caller) -> None:
    caller.open()
    for name in ("dies", "next"):
        caller.held(name)
    caller.wait(60)
    caller.resume(caller.rules.release(caller.now))
    caller.wait(2)  # its worker died before its call
    released = caller.rules.release(caller.now)
    assert released == Release(True, ("next",))
    assert caller.rules.breaker.probe_wait == 60 * SECOND


def test_an_unsent_probe_passes_on_as_well(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    caller.go("probe")
    caller.held("next")
    assert caller.end("probe", Ended.UNSENT, 0) == Release(True, ("next",))


def test_a_worker_that_dies_with_the_probe_does_not_hold_recovery_up(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    caller.go("dies")
    caller.held("next")
    caller.wait(34)
    assert caller.rules.release(caller.now) == Release()
    caller.wait(1)  # deadline and 5 s
    caller.rules.roll(caller.now, MIDDLE)
    assert caller.state() is State.OPEN
    assert caller.rules.breaker.probe_at - caller.now == pytest.approx(120 * SECOND)
    caller.wait(120)
    assert caller.rules.release(caller.now).sessions == ("next",)


def test_a_probe_that_was_not_resumed_is_named_again(caller: Caller) -> None:
    caller.open()
    caller.held("first")
    caller.wait(60)
    released = caller.rules.release(caller.now)
    assert caller.rules.release(caller.now) == released
    caller.resume(released)
    assert caller.rules.release(caller.now) == Release()


def test_the_write_after_a_probing_question_goes_too(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    caller.go("probe", size=0)
    caller.end("probe")
    caller.go("probe", size=5, followup=True)


def test_a_write_after_a_question_of_the_epoch_before_is_held(caller: Caller) -> None:
    caller.go("asked", size=0)
    caller.open()
    caller.held("oldest")
    caller.wait(60)
    assert caller.held("asked", followup=True) is Why.OPEN
    caller.rules.release(caller.now)
    assert caller.held("asked", followup=True) is Why.PROBING


# -- held, permits -----------------------------------------------------------------------------


def test_nobody_overtakes_the_held(caller: Caller) -> None:
    caller.open()
    for name in ("1", "2", "3"):
        caller.held(name)
    caller.wait(60)
    caller.resume(caller.rules.release(caller.now))
    caller.go("1")
    released = caller.end("1")
    assert released.sessions == ("2",)  # the ramp begins at one
    assert caller.held("newcomer") is Why.QUEUE
    caller.resume(released)
    caller.go("2")
    assert list(caller.rules.held) == ["3", "newcomer"]


def test_a_permit_is_void_after_two_seconds(caller: Caller) -> None:
    caller.open()
    for name in ("1", "2", "3"):
        caller.held(name)
    caller.wait(60)
    caller.resume(caller.rules.release(caller.now))
    caller.go("1")
    caller.resume(caller.end("1"))
    caller.wait(2)
    assert caller.held("2") is Why.QUEUE  # it came too late, and others wait
    assert caller.rules.release(caller.now).sessions == ("3",)


def test_a_released_session_that_was_not_resumed_is_named_again(caller: Caller) -> None:
    caller.open()
    for name in ("1", "2"):
        caller.held(name)
    caller.wait(60)
    caller.resume(caller.rules.release(caller.now))
    caller.go("1")
    assert caller.end("1").sessions == ("2",)
    assert caller.rules.release(caller.now).sessions == ("2",)


def test_opening_voids_every_permit(caller: Caller) -> None:
    caller.recover()
    caller.rules.ramp.limit = 50
    caller.rules.held.update(dict.fromkeys(["1", "2"]))
    caller.resume(caller.rules.release(caller.now))
    caller.open()
    assert len(caller.rules.permits) == 0
    assert caller.held("1") is Why.OPEN


def test_without_a_limit_a_release_moves_a_few_at_once(caller: Caller) -> None:
    caller.rules.held.update(dict.fromkeys(map(str, range(100))))
    released = caller.rules.release(caller.now)
    assert released.sessions == tuple(map(str, range(RELEASE_WIDTH)))


def test_a_followup_does_not_queue_again(caller: Caller) -> None:
    caller.recover()
    caller.go("asks", size=0)
    assert caller.held("other") is Why.LIMIT
    caller.go("asks", size=5, followup=True)


# -- the ramp ----------------------------------------------------------------------------------


def test_there_is_no_limit_before_the_first_recovery(caller: Caller) -> None:
    for number in range(500):
        caller.go(f"{number}")


def test_the_limit_starts_at_one_call_after_a_recovery(caller: Caller) -> None:
    caller.recover()
    caller.go("1")
    assert caller.held("2") is Why.LIMIT


def fill(caller: Caller, prefix: str) -> list[str]:
    """As many calls as the limit allows."""
    names = []
    for number in range(caller.rules.ramp.most or 0):
        names.append(f"{prefix}-{number}")
        caller.go(names[-1])
    return names


def test_each_good_call_adds_one_and_above_eight_a_round_does(caller: Caller) -> None:
    caller.recover()
    limits: list[int] = []
    for turn in range(6):
        for name in fill(caller, f"{turn}"):
            caller.end(name, seconds=0)
        limits.append(caller.rules.ramp.most or 0)
    # Calls end one by one, so the last of a round find less than half of the limit in use.
    assert limits == [2, 3, 5, 7, 8, 8]


def test_a_large_limit_climbs_by_a_share(caller: Caller) -> None:
    caller.recover()
    caller.rules.ramp.limit = 1000
    for name in fill(caller, "r")[:320]:
        caller.end(name, seconds=0)
    assert caller.rules.ramp.limit == pytest.approx(1010)


def test_a_limit_that_is_not_in_use_does_not_grow(caller: Caller) -> None:
    caller.recover()
    for _ in range(20):
        caller.call("alone")
    assert caller.rules.ramp.limit == 3  # of which one call is less than half


@pytest.mark.parametrize(("ended", "seconds"), [(Ended.FAILED, 0.1), (Ended.TIMEOUT, 30.0)])
def test_a_round_of_bad_calls_halves_the_limit_once(
    caller: Caller, ended: Ended, seconds: float
) -> None:
    caller.recover()
    caller.rules.ramp.limit = 8
    caller.rules.ramp.trouble = 1.0  # the round before was bad as well
    caller.wait(1)
    names = fill(caller, "r")
    caller.end(names[0], ended, seconds)
    assert caller.rules.ramp.limit == 4
    caller.end(names[1], ended, 0.1)  # of the same round
    assert caller.rules.ramp.limit == 4


def test_a_429_halves_the_limit_whatever_came_before(caller: Caller) -> None:
    caller.recover()
    caller.rules.ramp.limit = 8
    caller.wait(1)
    caller.end(fill(caller, "r")[0], Ended.LIMITED)
    assert caller.rules.ramp.limit == 4


def test_few_bad_calls_cut_a_little(caller: Caller) -> None:
    caller.recover()
    caller.rules.ramp.limit = 32
    dice = random.Random(1)
    for turn in range(50):
        for name in fill(caller, f"{turn}"):
            caller.end(name, Ended.FAILED if dice.random() < 0.02 else Ended.OK, 0.01)
    assert caller.rules.ramp.limit > 32


def test_a_backend_that_is_slow_by_itself_is_not_taken_for_a_drowning_one(caller: Caller) -> None:
    caller.open()
    caller.wait(60)
    caller.go("probe")
    caller.end("probe", seconds=9)
    for turn in range(8):
        for number, name in enumerate(fill(caller, f"{turn}")):
            caller.end(name, seconds=0 if number else 9)
    assert (caller.rules.ramp.limit or 0) > 8


def test_a_call_that_takes_a_few_times_what_it_took_alone_cuts(caller: Caller) -> None:
    caller.recover()  # the probe took 0.2 s: slow is the floor
    caller.rules.ramp.limit = 8
    caller.wait(1)
    caller.end(fill(caller, "r")[0], Ended.OK, 5)
    assert caller.rules.ramp.limit == pytest.approx(8 * (1 - 1 / 16))


def test_a_refused_call_leaves_the_limit_alone(caller: Caller) -> None:
    caller.recover()
    caller.call("a", Ended.REFUSED)
    assert caller.rules.ramp.limit == 1


# -- pause -------------------------------------------------------------------------------------


def test_retry_after_holds_everybody_and_followups_too(caller: Caller) -> None:
    caller.go("asks", size=0)
    caller.go("a")
    caller.end("a", Ended.LIMITED, retry_after=10 * SECOND, jitter=0)
    assert caller.held("b") is Why.PAUSE
    assert caller.held("asks", followup=True) is Why.PAUSE
    caller.wait(9.9)
    assert caller.rules.release(caller.now) == Release()
    caller.wait(0.1)
    assert caller.rules.release(caller.now).sessions == ("b",)


def test_a_429_without_retry_after_pauses_for_a_second(caller: Caller) -> None:
    caller.go("a")
    caller.end("a", Ended.LIMITED, jitter=0)
    assert caller.rules.pause.until == caller.now + SECOND


def test_a_pause_is_never_shortened(caller: Caller) -> None:
    for name in "ab":
        caller.go(name)
    caller.end("a", Ended.LIMITED, retry_after=60 * SECOND)
    until = caller.rules.pause.until
    caller.end("b", Ended.LIMITED, retry_after=SECOND)
    assert caller.rules.pause.until == until


def test_a_pause_is_capped(caller: Caller) -> None:
    caller.go("a")
    caller.end("a", Ended.LIMITED, retry_after=86_400 * SECOND, jitter=0.9)
    assert caller.rules.pause.until == caller.now + 15 * MINUTE


def test_a_429_halves_the_calls_in_flight(caller: Caller) -> None:
    for number in range(20):
        caller.go(f"{number}")
    caller.end("0", Ended.LIMITED)
    assert caller.rules.ramp.limit == 10


def test_a_pause_holds_the_probe_as_well(caller: Caller) -> None:
    caller.go("a")
    caller.go("x")
    caller.go("y")
    caller.go("z")
    caller.end("a", Ended.LIMITED, retry_after=5 * MINUTE, jitter=0)
    for name in "xyz":
        caller.end(name, Ended.FAILED, 0)
    assert caller.state() is State.OPEN
    caller.wait(120)
    assert caller.held("d") is Why.OPEN
    caller.wait(180)
    assert caller.rules.release(caller.now).sessions == ("d",)


# -- pace --------------------------------------------------------------------------------------


def paced(rate: float, burst: int = 1, seconds: float = 20.0) -> list[float]:
    """When calls start with 50 sessions that always have more to write, in seconds."""
    caller = Caller(Policy(rate=rate, burst=burst))
    starts: list[float] = []
    ready = [f"{number}" for number in range(50)]
    while caller.now < START + seconds * SECOND:
        for session in ready:
            answer = caller.ask(session)
            if isinstance(answer, Go):
                starts.append((caller.now + answer.delay - START) / SECOND)
                caller.held(session) if caller.rules.held else None
        ready = caller.resume(caller.rules.release(caller.now))
        caller.wait(0.25)
    return starts


def busiest_second(starts: list[float]) -> int:
    return max(sum(1 for other in starts if start <= other < start + 1) for start in starts)


def test_no_second_holds_more_calls_than_the_pace() -> None:
    starts = paced(5.0)
    assert busiest_second(starts) == 5
    assert len(starts) >= 20 * 5 / 1.04 - 5


def test_a_burst_may_start_at_once() -> None:
    starts = paced(5.0, burst=3)
    assert starts[:3] == [0, 0, 0]
    assert busiest_second(starts) <= 5 + 2


def test_a_slow_pace_is_kept_as_well() -> None:
    starts = paced(0.5, seconds=30)
    gaps = [after - before for before, after in pairwise(starts)]
    assert min(gaps) >= 2
    assert max(gaps) < 2.6


# -- parts -------------------------------------------------------------------------------------


def test_what_expires_leaves_at_its_time_even_when_it_was_added_anew() -> None:
    names = Expiring()
    names.add("a", 10)
    names.add("b", 10)
    names.add("a", 20)
    names.roll(10)
    assert list(names) == ["a"]
    names.roll(20)
    assert len(names) == 0


def test_the_same_story_with_the_same_numbers_ends_the_same() -> None:
    """Nothing but the arguments decides."""

    def story() -> dict[str, float | int | str | None]:
        dice = random.Random(7)
        rules = GateRules(replace(Policy(), rate=50.0))
        now = START
        flying: dict[str, Go] = {}
        for number in range(2000):
            now += dice.expovariate(1 / 20)
            if flying and dice.random() < 0.5:
                call = dice.choice(sorted(flying))
                go = flying.pop(call)
                ended = dice.choice(list(Ended))
                released = rules.report(
                    now, call, go.epoch, go.size_class, ended, dice.random() * 9000, go.deadline,
                    retry_after=dice.choice([-1.0, 3000.0]), jitter=dice.random(),
                )  # fmt: skip
                for session in released.sessions:
                    rules.resume(session)
            else:
                session = f"{dice.randrange(40)}"
                if session in rules.held:
                    continue
                answer = rules.admit(
                    now, session, f"c{number}", dice.randrange(101), jitter=dice.random()
                )
                if isinstance(answer, Go):
                    flying[f"c{number}"] = answer
        return rules.fields()

    assert story() == story()
