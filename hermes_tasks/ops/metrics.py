"""Every metric of a deployment, in one table: what it is called, what it means, where it is read.

The exporter, Flower's ``/metrics``, the reference page and the tests of dashboard and alerts are
all made from :data:`METRICS`. All of it comes from one :class:`~hermes_tasks.ops.Overview`, so what
the commands and Flower show is the same.

Names and units are those of Prometheus: seconds, ``_total`` for what only grows. No label names a
session, a user or a turn, and every label has few values: reasons that are not ours are one, and
of the gates, of which there is one for each Honcho workspace, the first :data:`GATES` are told
apart. What has a reason or a state is there from the start, as 0: only then is its first change
seen as an increase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from hermes_tasks.gate import GateStatus, State
from hermes_tasks.ops.diagnosis import SILENT_SECONDS, is_silent
from hermes_tasks.ops.overview import Overview
from hermes_tasks.ops.reports import WorkerStatus
from hermes_tasks.transport.histogram import Histogram

GATES = 50
"""Gates that have metrics of their own: those that let most calls through."""

REASONS = (
    "attempts",
    "dropped",
    "expired",
    "given_up",
    "malformed",
    "overflow",
    "oversized",
    "poison",
    "revoked",
    "session_deleted",
    "unreadable",
)
"""Why turns are given up."""

OTHER = "other"
"""The reason of those that were given up for one that we do not know."""

MAINTENANCE = "maintenance"
"""The state of a gate that an operator has opened; that of its breaker is then open."""

Labels = tuple[str, ...]
Point = tuple[Labels, float | Histogram]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: as Prometheus has it.
        kind: ``counter`` (only grows, until Redis is new), ``gauge`` or ``histogram``.
        unit: of its values.
        meaning: a sentence.
        read: its values in an overview, each with those of the labels.
        labels: names of the labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    read: Callable[[Overview], Iterable[Point]]
    labels: Labels = ()


def one(value: Callable[[Overview], float | Histogram]) -> Callable[[Overview], Iterator[Point]]:
    """Reads a metric without labels."""

    def read(overview: Overview) -> Iterator[Point]:
        yield (), value(overview)

    return read


def counter(name: str) -> Callable[[Overview], Iterator[Point]]:
    """Reads a counter as scripts call it."""
    return one(lambda overview: overview.counters.get(name, 0))


def each_gate(
    value: Callable[[GateStatus], float | Histogram | None],
) -> Callable[[Overview], Iterator[Point]]:
    """Reads a value of every gate that has it."""

    def read(overview: Overview) -> Iterator[Point]:
        for gate in shown_gates(overview):
            found = value(gate)
            if found is not None:
                yield (gate.name,), found

    return read


def gate_counter(name: str) -> Callable[[Overview], Iterator[Point]]:
    """Reads a counter of every gate."""
    return each_gate(lambda gate: gate.counters[name])


def shown_gates(overview: Overview) -> list[GateStatus]:
    """The gates that are told apart, by name."""
    busiest = sorted(overview.gates, key=lambda gate: (-gate.counters["calls"], gate.name))
    return sorted(busiest[:GATES], key=lambda gate: gate.name)


def _given_up(overview: Overview) -> Iterator[Point]:
    for reason in REASONS:
        yield (reason,), overview.given_up.get(reason, 0)
    yield (OTHER,), sum(n for why, n in overview.given_up.items() if why not in REASONS)


def _hooks(overview: Overview) -> Iterator[Point]:
    for name in ("failed", "timeout", "dropped"):
        yield (name,), overview.counters.get(f"hook_{name}", 0)


def _lag(overview: Overview) -> Iterator[Point]:
    lag = overview.lag
    for name in ("p50", "p95", "p99", "longest"):
        yield (name,), getattr(lag, name) if lag else 0.0


def _workers(overview: Overview) -> Iterator[Point]:
    found = [worker_state(worker) for worker in overview.workers]
    for state in ("consuming", "idle", "silent"):
        yield (state,), found.count(state)


def worker_state(worker: WorkerStatus) -> str:
    """``consuming``; ``idle``, which runs and takes no turns; or ``silent``, which may be gone."""
    if is_silent(worker):
        return "silent"
    return "consuming" if worker.consuming else "idle"


def gate_state(gate: GateStatus) -> str:
    """The state of its breaker, or ``maintenance``."""
    return MAINTENANCE if gate.maintenance else gate.state.value


def _states(overview: Overview) -> Iterator[Point]:
    found = [gate_state(gate) for gate in overview.gates]
    for state in (*State, MAINTENANCE):
        yield (state,), found.count(state)


def _state(overview: Overview) -> Iterator[Point]:
    for gate in shown_gates(overview):
        for state in (*State, MAINTENANCE):
            yield (gate.name, state), gate_state(gate) == state


def _deadlines(overview: Overview) -> Iterator[Point]:
    for gate in shown_gates(overview):
        for size in gate.classes:
            yield (gate.name, str(size.most)), size.deadline


def _p95s(overview: Overview) -> Iterator[Point]:
    for gate in shown_gates(overview):
        for size in gate.classes:
            if size.p95 is not None:
                yield (gate.name, str(size.most)), size.p95


METRICS: tuple[Metric, ...] = (
    # -- turns -------------------------------------------------------------------------------------
    Metric(
        "hermes_tasks_turns_accepted_total",
        "counter",
        "turns",
        "Turns that Redis took from gateways.",
        one(lambda overview: overview.accepted),
    ),
    Metric(
        "hermes_tasks_turns_written_total",
        "counter",
        "turns",
        "Turns that are in Honcho.",
        one(lambda overview: overview.written),
    ),
    Metric(
        "hermes_tasks_turns_found_total",
        "counter",
        "turns",
        "Turns, of those written, that a question found in Honcho already: each would have been "
        "written twice.",
        one(lambda overview: overview.found),
    ),
    Metric(
        "hermes_tasks_turns_duplicate_total",
        "counter",
        "turns",
        "Turns that a gateway sent again and Redis recognised.",
        one(lambda overview: overview.duplicates),
    ),
    Metric(
        "hermes_tasks_turns_written_twice_total",
        "counter",
        "turns",
        "Turns that are in Honcho twice, because a call landed later than was waited for it.",
        one(lambda overview: overview.twice),
    ),
    Metric(
        "hermes_tasks_turns_given_up_total",
        "counter",
        "turns",
        "Turns given up, which are dead letters, by reason. One that was retried counts again.",
        _given_up,
        ("reason",),
    ),
    Metric(
        "hermes_tasks_turns_postponed_total",
        "counter",
        "times",
        "Times that the oldest turn of a session was put off after a call failed.",
        counter("postponed"),
    ),
    Metric(
        "hermes_tasks_attempts_failed_total",
        "counter",
        "times",
        "Times that a task or its worker died with a turn, or a lease ran out.",
        counter("failed"),
    ),
    Metric(
        "hermes_tasks_turns_unsettled",
        "gauge",
        "turns",
        "Turns accepted and neither written nor given up.",
        one(lambda overview: overview.unsettled),
    ),
    Metric(
        "hermes_tasks_turns_backlog",
        "gauge",
        "turns",
        "Turns, of those unsettled, that overflowed the queue of their session.",
        one(lambda overview: overview.backlog),
    ),
    Metric(
        "hermes_tasks_lag_seconds",
        "gauge",
        "seconds",
        "How long sessions that have turns to write have waited, each one's oldest turn: p50, p95, "
        "p99 and the longest. 0 where none has.",
        _lag,
        ("rank",),
    ),
    Metric(
        "hermes_tasks_turn_age_seconds",
        "histogram",
        "seconds",
        "Age of turns when they were written.",
        one(lambda overview: overview.lags),
    ),
    # -- dead letters ------------------------------------------------------------------------------
    Metric(
        "hermes_tasks_dead_letters",
        "gauge",
        "turns",
        "Dead letters that are kept.",
        one(lambda overview: overview.dead),
    ),
    Metric(
        "hermes_tasks_batches_without_key_total",
        "counter",
        "times",
        "Times that a worker put turns off which are sealed with a key that it does not have.",
        counter("without_key"),
    ),
    Metric(
        "hermes_tasks_dead_letters_retried_total",
        "counter",
        "turns",
        "Dead letters that an operator sent again.",
        counter("dead_retried"),
    ),
    # -- sessions, workers, gateways ---------------------------------------------------------------
    Metric(
        "hermes_tasks_sessions",
        "gauge",
        "sessions",
        "Sessions that are ready for a worker, leased to one, sleeping until a time or held at a "
        "gate; and those that an operator has paused, whatever they are besides.",
        lambda overview: (((state,), n) for state, n in overview.sessions.items()),
        ("state",),
    ),
    Metric(
        "hermes_tasks_workers",
        "gauge",
        "workers",
        "Workers of the last ten minutes: consuming, idle (it runs and takes no turns) or silent "
        f"(not heard of for {SILENT_SECONDS:g} s).",
        _workers,
        ("state",),
    ),
    Metric(
        "hermes_tasks_gateways",
        "gauge",
        "gateways",
        "Gateways that told of their outbox within the last minute. One with nothing to send is "
        "silent.",
        one(lambda overview: overview.gateways.count),
    ),
    Metric(
        "hermes_tasks_outbox_rows",
        "gauge",
        "turns",
        "Turns in outboxes of gateways that Redis has not surely got, as they last told.",
        one(lambda overview: overview.gateways.rows),
    ),
    Metric(
        "hermes_tasks_outbox_dropped_total",
        "counter",
        "turns",
        "Turns that gateways dropped because their outbox was full. They are lost.",
        one(lambda overview: overview.gateways.dropped),
    ),
    Metric(
        "hermes_tasks_hook_calls_lost_total",
        "counter",
        "calls",
        "Calls of hooks that failed, took too long (timeout) or were not made (dropped).",
        _hooks,
        ("how",),
    ),
    # -- gates -------------------------------------------------------------------------------------
    Metric(
        "hermes_tasks_gates",
        "gauge",
        "gates",
        "Gates, one for each Honcho workspace, by state of the breaker: closed (calls are made), "
        "open, probing (one call looks), or maintenance (an operator has opened it).",
        _states,
        ("state",),
    ),
    Metric(
        "hermes_tasks_gate_state",
        "gauge",
        "1 or 0",
        "Whether the gate's breaker is in this state.",
        _state,
        ("gate", "state"),
    ),
    Metric(
        "hermes_tasks_gate_denied",
        "gauge",
        "1 or 0",
        "Whether the gate's breaker is open because Honcho denies the key of the workers.",
        each_gate(lambda gate: bool(gate.denied)),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_failures",
        "gauge",
        "calls",
        "Calls that failed one after another, until now.",
        each_gate(lambda gate: gate.failures),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_deadline_seconds",
        "gauge",
        "seconds",
        "Time that a call of up to so many messages is given.",
        _deadlines,
        ("gate", "messages"),
    ),
    Metric(
        "hermes_tasks_gate_p95_seconds",
        "gauge",
        "seconds",
        "What 95 of 100 recent calls of up to so many messages took at most.",
        _p95s,
        ("gate", "messages"),
    ),
    Metric(
        "hermes_tasks_gate_pause_seconds",
        "gauge",
        "seconds",
        "How much longer Honcho has asked for no calls.",
        each_gate(lambda gate: max(0.0, (gate.pause_until or gate.now) - gate.now)),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_limit_calls",
        "gauge",
        "calls",
        "Calls that may be in flight at once, after a recovery; absent where nothing limits them.",
        each_gate(lambda gate: gate.limit),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_calls_in_flight",
        "gauge",
        "calls",
        "Calls that are being made.",
        each_gate(lambda gate: gate.calls),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_sessions_held",
        "gauge",
        "sessions",
        "Sessions that wait at the gate.",
        each_gate(lambda gate: gate.held),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_calls_total",
        "counter",
        "calls",
        "Calls let through.",
        gate_counter("calls"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_held_total",
        "counter",
        "times",
        "Times that a session had to wait at the gate.",
        gate_counter("held"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_opened_total",
        "counter",
        "times",
        "Times that the breaker opened.",
        gate_counter("opened"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_probes_total",
        "counter",
        "calls",
        "Calls made to see whether Honcho is back.",
        gate_counter("probes"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_denied_total",
        "counter",
        "calls",
        "Calls for which Honcho denied the key of the worker.",
        gate_counter("denied"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_bypassed_total",
        "counter",
        "calls",
        "Calls made without the gate, because Redis did not answer in time.",
        gate_counter("bypassed"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_gate_late_total",
        "counter",
        "calls",
        "Calls whose end was told when the gate did not expect it any more.",
        gate_counter("late"),
        ("gate",),
    ),
    Metric(
        "hermes_tasks_call_duration_seconds",
        "histogram",
        "seconds",
        "How long calls that write took, whatever became of them.",
        each_gate(lambda gate: gate.took),
        ("gate",),
    ),
)

UP = "hermes_tasks_up"
"""Whether Redis answered: 1 or 0. The only metric that is there while it does not."""


def series() -> Iterator[tuple[str, Labels]]:
    """The name of every series that is exported, and the names of its labels."""
    yield UP, ()
    for metric in METRICS:
        if metric.kind == "histogram":
            yield f"{metric.name}_bucket", (*metric.labels, "le")
            yield f"{metric.name}_sum", metric.labels
            yield f"{metric.name}_count", metric.labels
        else:
            yield metric.name, metric.labels
