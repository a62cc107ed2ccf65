"""What is wrong with a deployment, in words, and which command to give next.

Whoever reads this was paged at night: each problem says what is the matter, whether anything is
lost, and one thing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hermes_tasks.gate import GateStatus
from hermes_tasks.ops.history import Sample
from hermes_tasks.ops.overview import Overview
from hermes_tasks.ops.reports import WorkerStatus
from hermes_tasks.ops.words import clock, count, duration

SILENT_SECONDS = 10.0
"""A worker says every second or so that it is there; longer than this without means it is not."""

RECENT_SECONDS = 300.0
"""Over how long it is looked whether the lag grows."""

SLOW_SECONDS = 60.0
"""A lag below this is no reason to say anything."""

STUCK_SECONDS = 600.0
"""A single session that lags so much, while the others do not, is worth a look."""

KEYLESS_SECONDS = 120.0
"""Turns whose key a worker lacks are looked at again once a minute at least."""

_LOOK_AT_GATES = "hermes-tasks gate show"
_START_WORKER = "start one: celery -A hermes_tasks worker"


class Severity(StrEnum):
    """``wrong``: turns are not written, or were lost. ``note``: something needs a look."""

    WRONG = "wrong"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        severity: how bad it is.
        what: is the matter, as a sentence.
        do: what to do about it, with a command where one helps; empty if waiting is all.
    """

    severity: Severity
    what: str
    do: str = ""


def diagnose(overview: Overview, history: Sequence[Sample] = ()) -> tuple[Problem, ...]:
    """What is not as it should be, the worst first.

    Args:
        overview: of the deployment, now.
        history: of the last hour, oldest first; without it nothing is said of what changes.
    """
    found = [
        *_of_workers(overview),
        *_of_keys(overview, history),
        *(problem for gate in overview.gates for problem in _of_gate(gate)),
        *_of_letters(overview, history),
        *_of_gateways(overview, history),
        *_of_sessions(overview),
    ]
    if not any(problem.severity is Severity.WRONG for problem in found):
        # What is wrong explains a lag; only what nothing explains is worth saying.
        found += _of_lag(overview, history)
    return tuple(sorted(found, key=lambda problem: problem.severity is not Severity.WRONG))


def is_silent(worker: WorkerStatus) -> bool:
    """Whether a worker has said nothing for so long that it has stopped or hangs."""
    return worker.seen > SILENT_SECONDS


def _of_workers(overview: Overview) -> Iterator[Problem]:
    waits = ""
    if overview.unsettled:
        oldest = f", the oldest for {duration(overview.lag.longest)}" if overview.lag else ""
        verb = "waits" if overview.unsettled == 1 else "wait"
        waits = f"; {count(overview.unsettled, 'turn')} {verb}{oldest}"
    there = [worker for worker in overview.workers if not is_silent(worker)]
    silent = [worker for worker in overview.workers if is_silent(worker)]
    idle = [worker for worker in there if not worker.consuming]
    if not there:
        severity = Severity.WRONG if waits else Severity.NOTE
        yield Problem(severity, f"No worker is running{waits}.", _START_WORKER)
    elif len(idle) == len(there):
        what = f"No worker takes turns, though there is {_names(idle)}{waits}."
        yield Problem(Severity.WRONG, what, "look at the log, then restart the worker")
    elif idle:
        takes = "takes" if len(idle) == 1 else "take"
        what = f"{len(idle)} of {len(there)} workers {takes} no turns: {_names(idle)}."
        yield Problem(
            Severity.NOTE, what, "if it is not just stopping: look at its log, and restart it"
        )
    if there and silent:
        # One that ends as it should takes its name off the list.
        since = duration(min(worker.seen for worker in silent))
        what = f"{_names(silent)}: nothing heard for {since}; killed, or it hangs."
        yield Problem(Severity.NOTE, what, "if it should run, restart it; others have its sessions")


def _of_keys(overview: Overview, history: Sequence[Sample]) -> Iterator[Problem]:
    if not history or not overview.unsettled:
        return
    old = (one for one in reversed(history) if overview.now - one.at >= KEYLESS_SECONDS)
    before = next(old, history[0])
    if overview.counters.get("without_key", 0) > before.without_key:
        yield Problem(
            Severity.WRONG,
            "Turns wait because a worker lacks the key that they are sealed with. Nothing is lost.",
            "the log of the workers names it: add it to HERMES_TASKS_ENCRYPTION_KEYS",
        )


def _of_gate(gate: GateStatus) -> Iterator[Problem]:
    waits = f"; {count(gate.held, 'session')} wait{'s' * (gate.held == 1)}" if gate.held else ""
    since = f" since {clock(gate.since, gate.now)}" if gate.since else ""
    look = f"{_LOOK_AT_GATES} {gate.name}"
    if gate.maintenance is not None:
        until, why = gate.maintenance.until, gate.maintenance.why
        end = f" until {clock(until, gate.now)}" if until is not None else ""
        said = f" ({why})" if why else ""
        what = f"{gate.name}: calls are stopped by hand{since}{end}{said}{waits}. Nothing is lost."
        yield Problem(Severity.WRONG, what, f"when it is over: hermes-tasks gate close {gate.name}")
    elif gate.state != "closed":
        why = f"Honcho refuses every call ({gate.denied})" if gate.denied else "Honcho fails"
        probe = "a call looks just now whether it is back"
        if gate.probe_at is not None:
            probe = f"next try in {duration(gate.probe_at - gate.now)}"
        what = f"{gate.name}: the breaker is open{since}: {why}; {probe}{waits}. Nothing is lost."
        yield Problem(
            Severity.WRONG,
            what,
            f"put Honcho right; to try at once: hermes-tasks gate close {gate.name}",
        )
    elif gate.pause_until is not None:
        why = f" ({gate.pause_why})" if gate.pause_why else ""
        left = duration(gate.pause_until - gate.now)
        what = f"{gate.name}: Honcho asked for a pause, {left} of it left{why}{waits}."
        yield Problem(Severity.WRONG, what, f"wait, or set HERMES_TASKS_RATE_LIMIT; {look}")
    elif gate.limit is not None and gate.held:
        what = f"{gate.name}: Honcho recovers, at most {gate.limit:.0f} calls at once{waits}."
        yield Problem(Severity.NOTE, what)


def _of_letters(overview: Overview, history: Sequence[Sample]) -> Iterator[Problem]:
    given_up = sum(overview.given_up.values())
    if not history or not overview.dead:
        return
    new = given_up - history[0].given_up
    if new > 0:
        span = duration(overview.now - history[0].at)
        what = f"{count(new, 'turn')} given up in the last {span}; kept as dead letters."
        yield Problem(Severity.NOTE, what, "hermes-tasks dead list")


def _of_gateways(overview: Overview, history: Sequence[Sample]) -> Iterator[Problem]:
    gateways = overview.gateways
    lost = gateways.dropped - history[0].dropped if history else 0
    if lost > 0:
        span = duration(overview.now - history[0].at)
        what = f"{count(lost, 'turn')} lost in the last {span}: outboxes of gateways were full."
        yield Problem(
            Severity.WRONG, what, "let Redis take turns; or raise HERMES_TASKS_OUTBOX_ROWS"
        )
    if gateways.rows:
        turns = count(gateways.rows, "turn")
        if gateways.count:
            who = f"{count(gateways.count, 'gateway')} with {turns} that Redis has not accepted yet"
            do = "if it does not shrink: look at the log of the gateways, and at Redis"
        else:
            who = f"Gateways that are silent now had {turns} that Redis has not accepted yet"
            do = "start them again: the next one on the same directory sends them"
        yield Problem(Severity.NOTE, f"{who}; kept in the outbox.", do)


def _of_sessions(overview: Overview) -> Iterator[Problem]:
    paused = overview.sessions.get("paused", 0)
    if paused:
        yield Problem(
            Severity.NOTE,
            f"{count(paused, 'session')} paused by hand; {'its' if paused == 1 else 'their'} "
            "turns are kept.",
            "hermes-tasks sessions list --state paused, then: sessions resume",
        )


def _of_lag(overview: Overview, history: Sequence[Sample]) -> Iterator[Problem]:
    lag = overview.lag
    if lag is None:
        return
    before = next((one for one in history if overview.now - one.at <= RECENT_SECONDS), None)
    elapsed = overview.now - before.at if before else 0.0
    grown = lag.p95 - (before.lag.p95 if before and before.lag else 0.0)
    if before and lag.p95 > SLOW_SECONDS and elapsed > SLOW_SECONDS and grown > elapsed / 4:
        came = (overview.accepted - before.accepted) / elapsed
        given_up = sum(overview.given_up.values())
        went = (overview.written + given_up - before.written - before.given_up) / elapsed
        what = (
            f"The lag grows: p95 is {duration(lag.p95)}, {duration(grown)} more than "
            f"{duration(elapsed)} ago; {came:.1f} turns come in a second and {went:.1f} go."
        )
        yield Problem(Severity.NOTE, what, _more_speed(overview))
    elif lag.longest > STUCK_SECONDS and lag.longest > 10 * lag.p50:
        what = f"A session lags {duration(lag.longest)}, half of all others {duration(lag.p50)}."
        yield Problem(Severity.NOTE, what, "hermes-tasks sessions list --limit 5")


def _more_speed(overview: Overview) -> str:
    """What makes a deployment faster that nothing stops."""
    if any(gate.rate is not None and gate.held for gate in overview.gates):
        return "the rate limit holds sessions: raise HERMES_TASKS_RATE_LIMIT if Honcho allows it"
    return "add workers, or give them more slots (--concurrency)"


def _names(workers: Sequence[WorkerStatus]) -> str:
    names = ", ".join(worker.name for worker in workers[:3])
    return f"{names} and {len(workers) - 3} more" if len(workers) > 3 else names
