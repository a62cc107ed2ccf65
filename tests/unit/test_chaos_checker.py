"""The checker of the chaos suite against histories made by hand: good ones, each kind of bad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import Verdict, check
from tests.chaos.history import Call, Depth, Fault, History, Landing, Letter, Limits, Offer
from tests.chaos.plan import Kind, make_plan

LIMITS = Limits(
    lease=3, ceiling=2, landing=3, probe=1, queue=4, backlog=8, reasons=frozenset({"poison"})
)


def good() -> History:
    """Two turns of one session, written as they should be; the first has two messages."""
    return History(
        offers=[Offer("g", "s", "t1", 2, 0.9, 1.0), Offer("g", "s", "t2", 1, 1.9, 2.0)],
        landings=[
            Landing("s", "t1", 0, 2.0, 2.1),
            Landing("s", "t1", 1, 2.0, 2.1),
            Landing("s", "t2", 0, 3.0, 3.1),
        ],
        calls=[Call("s", 2.0, 201), Call("s", 3.0, 201)],
        depths=[Depth("s", 4, 8)],
        ended=5.0,
    )


def broken(history: History) -> list[str]:
    """What is wrong with a history, by the first words of each line."""
    return [line.partition(":")[0] for line in check(history, LIMITS).problems()]


def test_a_good_history_has_no_problems() -> None:
    verdict = check(good(), LIMITS)
    assert verdict.problems() == []
    assert (verdict.accepted, verdict.written, verdict.lost) == (2, 2, [])
    assert verdict.longest == pytest.approx(1.1)


def lose(history: History) -> None:
    del history.landings[1]


def write_twice(history: History) -> None:
    history.landings.append(Landing("s", "t2", 0, 3.5, 3.6))


def swap(history: History) -> None:
    history.landings[2] = replace(history.landings[2], at=2.05)


def invent(history: History) -> None:
    history.landings.append(Landing("s", "t9", 0, 3.5, 3.6))


def go_astray(history: History) -> None:
    history.landings[2] = replace(history.landings[2], session="s2")


def give_up(history: History) -> None:
    del history.landings[2]
    history.letters.append(Letter("s", "t2", "attempts", 4.0))


def bury_alive(history: History) -> None:
    history.letters.append(Letter("s", "t2", "poison", 4.0))


def overfill(history: History) -> None:
    history.depths.append(Depth("s2", 5, 0))


def fall(history: History) -> None:
    history.fallen.append("w1")


@pytest.mark.parametrize(
    ("hurt", "problem"),
    [
        (lose, "lost"),
        (write_twice, "twice, unexplained"),
        (swap, "out of order"),
        (invent, "stored, but never offered"),
        (give_up, "given up for no reason"),
        (bury_alive, "given up, but stored"),
        (overfill, "beyond its bound"),
        (fall, "ended by itself"),
    ],
)
def test_each_kind_of_bad_history_is_found(hurt: Callable[[History], None], problem: str) -> None:
    history = good()
    hurt(history)
    assert broken(history) == [problem]


def test_a_turn_in_another_session_is_unknown_there() -> None:
    history = good()
    go_astray(history)
    assert "stored, but never offered" in broken(history)


def test_parts_of_a_turn_have_an_order_too() -> None:
    history = good()
    history.landings[1] = replace(history.landings[1], at=2.05)
    assert broken(history) == ["out of order"]
    history = good()
    history.landings[0] = replace(history.landings[0], place=1)  # in one call
    assert broken(history) == ["out of order"]


def test_a_turn_that_was_offered_only_may_be_there_or_not_but_not_out_of_order() -> None:
    history = good()
    history.offers.append(Offer("g", "s", "t3", 1, 2.5, None))
    assert broken(history) == []
    history.landings.append(Landing("s", "t3", 0, 3.5, 3.6))
    assert broken(history) == []
    history.landings[-1] = replace(history.landings[-1], at=2.9)
    assert broken(history) == ["out of order"]


def test_two_gateways_have_no_order_between_them() -> None:
    history = good()
    history.offers.insert(0, Offer("h", "s", "u1", 1, 0.5, 0.6))
    history.landings.append(Landing("s", "u1", 0, 4.0, 4.1))
    assert broken(history) == []


def test_a_call_that_lands_too_late_explains_one_more_but_not_two() -> None:
    history = good()
    late = Landing("s", "t2", 0, 1.0, 6.1)  # ceiling and landing are 5 s
    history.landings.append(late)
    verdict = check(history, LIMITS)
    assert (verdict.problems(), verdict.explained) == ([], 1)
    history.landings[-1] = replace(late, at=5.9)
    assert broken(history) == ["twice, unexplained"]
    history.landings[-1] = late
    history.landings.append(Landing("s", "t2", 0, 7.0, 7.1))
    assert broken(history) == ["twice, unexplained"]


def test_a_poisoned_turn_is_neither_lost_nor_a_surprise() -> None:
    history = good()
    del history.landings[2]
    history.letters.append(Letter("s", "t2", "poison", 4.0))
    verdict = check(history, LIMITS)
    assert (verdict.problems(), verdict.written, verdict.dead) == ([], 1, {"poison": 1})


def test_a_call_that_lands_too_late_explains_a_dead_letter_that_is_stored() -> None:
    history = good()
    history.letters.append(Letter("s", "t1", "poison", 2.5))
    history.landings[:2] = [Landing("s", "t1", part, 1.5, 6.6) for part in range(2)]
    verdict = check(history, LIMITS)
    assert (verdict.problems(), verdict.explained) == ([], 2)
    history.landings[:2] = [Landing("s", "t1", part, 1.7, 6.6) for part in range(2)]
    assert broken(history) == ["out of order", "given up, but stored"]


def stalled(
    until: float, *, faults: list[Fault] | None = None, call: Call | None = None
) -> Verdict:
    """A session whose one turn is accepted at 10 s and written at ``until``."""
    return check(
        History(
            offers=[Offer("g", "s", "t", 1, 9.9, 10.0)],
            landings=[Landing("s", "t", 0, until, until)],
            calls=[call] if call else [],
            faults=faults or [],
            ended=100.0,
        ),
        LIMITS,
    )


def test_a_session_goes_on_within_lease_and_five_seconds() -> None:
    assert stalled(17.9).problems() == []
    assert stalled(18.1).problems() != []


def test_the_time_counts_from_the_end_of_the_last_fault() -> None:
    fault = Fault("kill -9 w1", 12.0, 20.0)
    assert stalled(27.9, faults=[fault]).problems() == []
    verdict = stalled(28.1, faults=[fault])
    assert verdict.problems() != []
    assert verdict.longest == pytest.approx(8.1)


def test_an_open_call_is_waited_for() -> None:
    for status in (None, 502):
        assert stalled(19.9, call=Call("s", 12.0, status)).problems() == []
        assert stalled(20.1, call=Call("s", 12.0, status)).problems() != []
    # 503 is an answer: nothing can land any more.
    assert stalled(18.1, call=Call("s", 12.0, 503)).problems() != []


def test_after_another_redis_process_answers_every_call_may_have_been_open() -> None:
    forgotten = Fault("kill -9 redis", 11.0, 14.0, forgets=True)
    assert stalled(23.9, faults=[forgotten]).problems() == []  # 14 + 2 + 3 + 5
    assert stalled(24.1, faults=[forgotten]).problems() != []


def test_after_an_outage_of_the_backend_the_breaker_looks_after_as_long_again() -> None:
    outage = Fault("kill -9 honcho", 11.0, 14.0, backend=True)
    assert stalled(25.9, faults=[outage]).problems() == []  # 14 + 3 + 1 + 8
    assert stalled(26.1, faults=[outage]).problems() != []


def test_a_plan_is_the_same_for_the_same_seed_and_hurts_nothing_twice_at_once() -> None:
    workers, gateways = ["w1", "w2", "w3"], ["g1", "g2"]
    plans = [make_plan(seed, 60, workers, gateways, LIMITS) for seed in range(50)]
    assert plans[7] == make_plan(7, 60, workers, gateways, LIMITS)
    assert plans[7] != plans[8]
    for plan in plans:
        assert len(plan) > 10
        for index, action in enumerate(plan):
            assert action.over <= 60
            same = [b for b in plan[index + 1 :] if b.target == action.target]
            assert all(b.at >= action.over for b in same)
    assert {action.kind for plan in plans for action in plan} == set(Kind)
