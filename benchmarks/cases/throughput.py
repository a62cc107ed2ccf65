"""Throughput with a writer that writes nowhere: what the queue itself can do.

The turns are all queued before the first worker starts; the rate is taken between the first turn
written and the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.cases import Plan
from benchmarks.peers import DEFAULTS, OURS, SHARDED, STOCK, THREAD, Peer
from benchmarks.results import Bar, Run, Table, interleaved
from benchmarks.world import World

#: Turns of a run, for contenders that write them one by one and in batches.
TURNS, BATCHED_TURNS = 2_000, 20_000
ONE = {"HERMES_TASKS_BATCH_TURNS": "1"}
_PREFORK = "prefork, 2 processes"


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second."""
    yield prefork(plan)
    yield batched(plan)
    for sessions in (1, 100, 10_000) if plan.full else (100,):
        yield against_all(plan, sessions)
    if plan.full:
        yield scaling(plan)


def prefork(plan: Plan) -> Table:
    """Batches of one against stock Celery: the same pool, the same number of processes."""
    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer, 100, TURNS, pool="prefork", slots=2, env=ONE)
        for peer in (OURS, STOCK, DEFAULTS)
    }
    (series,) = interleaved(plan.runs, contenders).values()
    table = Table(
        "throughput-unbatched",
        "No-op writer, 100 sessions, batches of one, prefork with two processes",
        "turns/s",
        series,
    )
    for peer in (STOCK, DEFAULTS):
        ratio = table.ratio(OURS.name, peer.name)
        table.bars.append(Bar(f"{OURS.name} / {peer.name}", ratio, at_least=1.0))
    return table


def batched(plan: Plan) -> Table:
    """Batches of fifty, on one worker process."""
    pools = {
        "threads, 32 slots": partial(measure, OURS, 100, BATCHED_TURNS),
        "prefork, one process": partial(measure, OURS, 100, BATCHED_TURNS, pool="prefork", slots=1),
        _PREFORK: partial(measure, OURS, 100, BATCHED_TURNS, pool="prefork", slots=2),
    }
    (series,) = interleaved(plan.runs, pools).values()
    table = Table(
        "throughput-batched",
        "No-op writer, 100 sessions, hermes_tasks in batches of fifty, one worker",
        "turns/s",
        series,
    )
    best = max((one.median or 0.0 for one in series), default=0.0)
    table.bars.append(Bar("best pool", best, at_least=10_000))
    return table


def against_all(plan: Plan, sessions: int) -> Table:
    """Every contender, with one worker process of 32 slots where it can have them."""
    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer, sessions, round(peer.share * max(TURNS, sessions)))
        for peer in plan.peers
        if peer is not THREAD
    }
    contenders[f"{OURS.name}, batches of one"] = partial(
        measure, OURS, sessions, max(TURNS, sessions), env=ONE
    )
    (series,) = interleaved(plan.runs, contenders).values()
    return Table(
        f"throughput-{sessions}",
        f"No-op writer, {sessions:,} session{'s' * (sessions > 1)}, one worker process",
        "turns/s",
        series,
        note=f"32 slots, threads or coroutines; RQ has one slot, and {SHARDED.name} "
        f"{SHARDED.shards} processes of one.",
    )


def scaling(plan: Plan) -> Table:
    """From one worker process to two."""
    contenders: dict[str, Run] = {}
    for processes in (1, 2):
        for peer in (OURS, STOCK):
            name = f"{peer.name}, {processes} worker{'s' * (processes > 1)}"
            contenders[name] = partial(measure, peer, 100, TURNS, processes=processes)
    (series,) = interleaved(plan.runs, contenders).values()
    return Table(
        "throughput-scaling", "No-op writer, 100 sessions, worker processes", "turns/s", series
    )


def measure(
    peer: Peer, sessions: int, total: int, *, processes: int = 1, **world: Any
) -> Mapping[str, float | None]:
    """Turns a second of one run; ``None``: it was stuck."""
    with World(peer, **world) as at_work:
        sessions = min(sessions, total)
        total -= total % sessions
        at_work.send(sessions=sessions, turns=total // sessions)
        at_work.start(processes)
        if not at_work.wait(total):
            return {"rate": None}
        return {"rate": at_work.written().rate()}
