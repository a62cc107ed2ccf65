"""A short run of the real thing, and three broken builds that the checker must not let pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.cluster import LIMITS, Shape
from tests.chaos.plan import Action, Kind
from tests.chaos.run import Outcome, run

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

QUICK = replace(LIMITS, lease=1.0, ceiling=1.0, landing=0.5, probe=0.5)
"""For plans of a few seconds that are to provoke one thing."""

SMALL = Shape(
    QUICK,
    gateways=("g1",),
    workers={"w1": "threads", "w2": "threads"},
    rate=10.0,
    settings={},
)


def broken(outcome: Outcome) -> set[str]:
    """Which promises a run found broken."""
    print(outcome.text())
    return {problem.partition(":")[0] for problem in outcome.verdict.problems()}


def test_a_short_run_keeps_every_promise(tmp_path: Path) -> None:
    outcome = run(seed=38, seconds=11, directory=tmp_path)
    print(outcome.text())
    assert outcome.verdict.problems() == [], outcome.text()
    assert outcome.verdict.accepted > 20


def test_a_build_without_the_question_writes_twice(tmp_path: Path) -> None:
    # Given calls that are stored, and answered with an error
    plan = [Action(1.0 + n, 0.8, Kind.AFTER, "honcho", 502, 1) for n in range(4)]
    shape = replace(SMALL, broken="question")
    assert broken(run(1, 5, tmp_path, shape=shape, plan=plan)) >= {"twice, unexplained"}


def test_a_build_without_fencing_writes_twice(tmp_path: Path) -> None:
    # Given a worker that is stopped when it has sessions but has not called yet,
    # for longer than another one takes to have them and to write
    plan = [Action(1.0 + 6 * n, 5.0, Kind.STOP, "w1") for n in range(2)]
    shape = replace(SMALL, broken="fencing", rate=20.0)
    assert broken(run(1, 13, tmp_path, shape=shape, plan=plan, drain=1)) >= {"twice, unexplained"}


def test_a_build_whose_bound_is_not_atomic_goes_beyond_it(tmp_path: Path) -> None:
    # Given two gateways that fill one session, which nobody empties
    plan = [Action(0.5, 4.0, Kind.FAIL, "honcho", 503, -1)]
    limits = replace(QUICK, queue=8)
    shape = replace(
        SMALL, limits=limits, gateways=("g1", "g2"), own=0, shared=1, rate=20.0, broken="bound"
    )
    assert broken(run(1, 5, tmp_path, shape=shape, plan=plan, drain=1)) >= {"beyond its bound"}
