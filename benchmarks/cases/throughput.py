"""Throughput with a writer that writes nowhere: what the queue itself can do.

The turns are all queued before the first worker starts; the rate is taken between the first turn
written and the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.cases import Plan
from benchmarks.limits import TOGETHER, pipelined_rate
from benchmarks.peers import DEFAULTS, DRAMATIQ, OURS, PROCRASTINATE, SHARDED, STOCK, THREAD, Peer
from benchmarks.results import Bar, Figure, Kind, Run, Table, measured
from benchmarks.world import World

TITLE = "Throughput of the queue alone"
ABOUT = """
Turns a second through a worker whose task writes nowhere, so that nothing but the queue is
measured. A deployment that has so many turns a second is rare; what it shows is how much of a
core the queue takes from everything else. hermes_tasks gives a task up to fifty turns of a
session at once, which is why it is so much quicker than the others with few sessions; "batches of
one" takes that away, and so do ten thousand sessions of one turn each: what is left is what
Celery's worker does for a task.

Processes are not pinned here: sender and worker are never at work at the same time, and worker
and server share the cores as the system lets them. The limit is EVALSHA of an LPUSH of as many
bytes, fifty a round trip, from one client.
"""
#: Turns of a run, for contenders that write them one by one and in batches.
TURNS, BATCHED_TURNS = 1_000, 20_000
ONE = {"HERMES_TASKS_BATCH_TURNS": "1"}
ALONE = f"{OURS.name}, batches of one"
#: Turns of one hot session for procrastinate, which looks for the next one ten times a second.
POLLED_TURNS = 200
KINDS = {"rate": Kind("turns/s")}
LIMIT = (f"EVALSHA, {TOGETHER} a round trip", pipelined_rate)


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second."""
    yield prefork(plan)
    yield batched(plan)
    yield one_process(plan, 100)
    if plan.full:
        yield one_process(plan, 1)
        yield one_process(plan, 10_000)
        yield scaling(plan)


def rates(plan: Plan, contenders: Mapping[str, Run]) -> list[Figure]:
    """Of contenders and limit, in turn."""
    return measured(plan.runs, contenders, KINDS, LIMIT)


def prefork(plan: Plan) -> Table:
    """Batches of one against stock Celery: the same pool, the same number of processes."""
    peers = (STOCK, DEFAULTS) if plan.full else (STOCK,)
    total = 2 * TURNS if plan.full else TURNS
    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer, 100, total, pool="prefork", slots=2, env=ONE)
        for peer in (OURS, *peers)
    }
    (rate,) = rates(plan, contenders)
    table = Table(
        "throughput-unbatched",
        "100 sessions, batches of one, prefork with two processes",
        [rate],
    )
    for peer in peers:
        ratio = rate.ratio(OURS.name, peer.name)
        table.bars.append(Bar(f"batches of one / {peer.name}", ratio, at_least=1.0))
    return table


def batched(plan: Plan) -> Table:
    """Batches of fifty, on one worker process."""
    ours = partial(measure, OURS, 100, BATCHED_TURNS)
    pools: dict[str, Run] = {"prefork, one process": partial(ours, pool="prefork", slots=1)}
    if plan.full:
        pools["prefork, two processes"] = partial(ours, pool="prefork", slots=2)
        pools["threads, 32 slots"] = ours
    (rate,) = rates(plan, pools)
    best = max(one.median or 0.0 for one in rate.series if "two" not in one.name)
    return Table(
        "throughput-batched",
        "100 sessions, hermes_tasks in batches of fifty, one worker",
        [rate],
        bars=[Bar("turns/s in batches, one worker process", best, at_least=10_000)],
    )


def one_process(plan: Plan, sessions: int) -> Table:
    """Contenders with one worker process of 32 slots where they can have them."""

    def turns(peer: Peer) -> int:
        if peer is PROCRASTINATE and sessions == 1:
            return POLLED_TURNS
        return round(peer.share * max(TURNS, sessions))

    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer, sessions, turns(peer))
        for peer in (plan.peers if plan.full else (OURS, STOCK, DRAMATIQ))
        if peer is not THREAD
    }
    alone = partial(measure, OURS, sessions, turns(OURS), env=ONE)
    contenders = {OURS.name: contenders.pop(OURS.name), ALONE: alone, **contenders}
    return Table(
        f"throughput-{sessions}",
        f"{sessions:,} session{'s' * (sessions > 1)}, one worker process",
        rates(plan, contenders),
        note="32 slots, threads or coroutines"
        + f"; RQ has one slot, and {SHARDED.name} {SHARDED.shards} processes of one" * plan.full
        + ".",
    )


def scaling(plan: Plan) -> Table:
    """From one worker process to two."""
    contenders: dict[str, Run] = {}
    for peer, name, total, env in (
        (OURS, OURS.name, BATCHED_TURNS, None),
        (OURS, ALONE, TURNS, ONE),
        (STOCK, STOCK.name, TURNS, None),
    ):
        for processes in (1, 2):
            title = f"{name}, {processes} worker{'s' * (processes > 1)}"
            contenders[title] = partial(
                measure, peer, 100, total, processes=processes, pool="prefork", slots=1, env=env
            )
    return Table(
        "throughput-scaling",
        "100 sessions, from one worker to two, each with one pool process",
        rates(plan, contenders),
        note="On two cores two workers, their pools and Redis share what one has for itself: "
        "this is the worst place to scale.",
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
