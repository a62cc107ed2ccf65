"""What an operator is told of a deployment, and what to do."""

from __future__ import annotations

from dataclasses import replace

from hermes_tasks.ops import Gateways, Histogram, Lag, Overview, Sample, WorkerStatus
from hermes_tasks.ops.diagnosis import Severity, diagnose
from hermes_tasks.ops.words import duration

NOW = 1_763_751_600.0
WELL = Overview(
    now=NOW,
    accepted=1_000,
    written=990,
    found=0,
    duplicates=0,
    twice=0,
    given_up={},
    counters={},
    unsettled=10,
    backlog=0,
    dead=0,
    sessions={"ready": 1, "leased": 9, "sleeping": 0, "held": 0, "paused": 0},
    lag=Lag(0.1, 0.4, 0.5, 0.6),
    lags=Histogram((), (0,), 0.0),
    workers=(WorkerStatus("celery@a", True, 0.3), WorkerStatus("celery@b", True, 0.8)),
    gateways=Gateways(0, 0, 0),
    gates=(),
)


def sample(overview: Overview, seconds_ago: float) -> Sample:
    return replace(Sample.of(overview), at=NOW - seconds_ago)


def test_of_a_deployment_that_is_well_nothing_is_said() -> None:
    assert diagnose(WELL, [sample(WELL, 300)]) == ()


def test_a_worker_that_takes_nothing_is_a_note_while_another_does() -> None:
    hangs = WorkerStatus("celery@b", False, 0.8)
    (problem,) = diagnose(replace(WELL, workers=(WELL.workers[0], hangs)))
    assert problem.severity is Severity.NOTE
    assert "celery@b" in problem.what
    (problem,) = diagnose(replace(WELL, workers=(hangs,)))
    assert problem.severity is Severity.WRONG


def test_a_worker_that_is_silent_beside_others_was_killed_or_hangs() -> None:
    silent = WorkerStatus("celery@b", True, 75.0)
    (problem,) = diagnose(replace(WELL, workers=(WELL.workers[0], silent)))
    assert problem.severity is Severity.NOTE
    assert problem.what == "celery@b: nothing heard for 1 min 15 s; killed, or it hangs."


def test_turns_that_wait_for_a_key_are_said_while_a_worker_still_meets_them() -> None:
    met, again = (replace(WELL, counters={"without_key": n}) for n in (3, 4))
    history = [sample(WELL, 900), sample(met, 150), sample(met, 20)]
    (problem,) = diagnose(again, history)
    assert problem.severity is Severity.WRONG
    assert "HERMES_TASKS_ENCRYPTION_KEYS" in problem.do
    # Another worker has the key, or this one has it now.
    assert diagnose(met, history) == ()


def test_workers_that_are_silent_do_not_count() -> None:
    silent = tuple(replace(worker, seen=60.0) for worker in WELL.workers)
    (problem,) = diagnose(replace(WELL, workers=silent))
    assert problem.what == "No worker is running; 10 turns wait, the oldest for 0.6 s."
    # Where nothing waits nothing is wrong yet.
    (problem,) = diagnose(replace(WELL, workers=(), unsettled=0, lag=None))
    assert problem.severity is Severity.NOTE


def test_a_lag_that_grows_is_said_with_the_rates_and_what_helps() -> None:
    before = sample(replace(WELL, accepted=400, written=390), 300)
    behind = replace(WELL, written=690, unsettled=310, lag=Lag(90.0, 140.0, 150.0, 160.0))
    (problem,) = diagnose(behind, [before])
    assert problem.severity is Severity.NOTE
    assert "p95 is 2 min 20 s" in problem.what
    assert "2.0 turns come in a second and 1.0 go" in problem.what
    assert "add workers" in problem.do
    # Of one that shrinks nothing is said.
    longer = replace(before, lag=Lag(300.0, 400.0, 500.0, 600.0))
    assert diagnose(behind, [longer]) == ()


def test_turns_given_up_lately_are_said_and_old_ones_not() -> None:
    before = sample(replace(WELL, given_up={"poison": 3}), 3_000)
    assert diagnose(replace(WELL, dead=3, given_up={"poison": 3}), [before]) == ()
    (problem,) = diagnose(replace(WELL, dead=5, given_up={"poison": 4, "overflow": 1}), [before])
    assert problem.what == "2 turns given up in the last 50 min; kept as dead letters."
    assert problem.do == "hermes-tasks dead list"


def test_turns_that_redis_has_not_taken_are_said() -> None:
    (problem,) = diagnose(replace(WELL, gateways=Gateways(count=2, rows=1_500, dropped=0)))
    assert "2 gateways with 1,500 turns that Redis has not accepted yet" in problem.what
    (problem,) = diagnose(replace(WELL, gateways=Gateways(count=0, rows=1, dropped=0)))
    assert "silent now had 1 turn that Redis has not accepted yet" in problem.what


def test_turns_that_gateways_lost_lately_are_wrong_and_old_losses_not() -> None:
    before = sample(replace(WELL, gateways=Gateways(0, 0, dropped=2)), 600)
    assert diagnose(replace(WELL, gateways=Gateways(0, 0, dropped=2)), [before]) == ()
    (problem,) = diagnose(replace(WELL, gateways=Gateways(0, 0, dropped=3)), [before])
    assert problem.severity is Severity.WRONG
    assert problem.what == "1 turn lost in the last 10 min: outboxes of gateways were full."


def test_time_spans_are_said_in_their_two_largest_units() -> None:
    assert [duration(span) for span in (0.04, 9.94, 59.4, 60.0)] == [
        "0.0 s",
        "9.9 s",
        "59 s",
        "1 min",
    ]
    assert [duration(span) for span in (725.0, 7_205.0, 7_260.0, 273_600.0)] == [
        "12 min 5 s",
        "2 h",
        "2 h 1 min",
        "3 d 4 h",
    ]
