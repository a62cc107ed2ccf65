"""Ordered throughput: each turn is written to the stand-in, which takes 20 ms.

Here order costs: who keeps it writes one turn of a session at a time, or several in one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS, THREAD, Peer
from benchmarks.results import Bar, Run, Series, Table, interleaved
from benchmarks.world import World

LATENCY = 0.02
#: The longest a run may take, in seconds.
LIMIT = 60.0


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second, and sessions out of order."""
    yield from case(plan, 200, 10 if plan.full else 4)
    yield from case(plan, 1, 300 if plan.full else 100)


def case(plan: Plan, sessions: int, turns: int) -> Iterator[Table]:
    """So many sessions, of so many turns each."""
    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer, sessions, turns) for peer in plan.peers
    }
    figures = interleaved(plan.runs, contenders)
    order = {series.name: series for series in figures["out of order"]}
    keeping = [
        series
        for series, peer in zip(figures["rate"], plan.peers, strict=True)
        if peer.keeps_order and peer is not OURS and not any(order[peer.name].values)
    ]
    rates = Table(
        f"ordered-{sessions}",
        f"Writer of 20 ms, {sessions} session{'s' * (sessions > 1)} x {turns} turns",
        "turns/s",
        figures["rate"],
        note=f"32 slots. Sessions out of order: {_said(figures['out of order'])}.",
    )
    best = max((series.median or 0.0 for series in keeping), default=0.0)
    ours = rates[OURS.name].median
    rates.bars.append(
        Bar(
            f"hermes_tasks / the best that keeps order ({_name(keeping, best)})",
            ours / best if ours and best else None,
            at_least=1.0 if sessions > 1 else 20.0,
        )
    )
    worst = max((value or 0.0 for value in order[OURS.name].values), default=0.0)
    rates.bars.append(Bar("sessions out of order, hermes_tasks", worst, at_most=0.0))
    yield rates


def _said(out_of_order: list[Series]) -> str:
    return ", ".join(f"{one.name} {one.median or 0:g}" for one in out_of_order)


def _name(series: list[Series], median: float) -> str:
    return next((one.name for one in series if one.median == median), "none")


def measure(peer: Peer, sessions: int, turns: int) -> Mapping[str, float | None]:
    """One run."""
    total = sessions * turns
    with World(peer, latency=LATENCY) as world:
        if peer is THREAD:
            sender = world.sender(sessions=sessions, turns=turns, limit=LIMIT)
            sender.go()
        else:
            world.send(sessions=sessions, turns=turns)
            world.start()
        done = world.wait(total, LIMIT)
        written = world.written()
        rate = written.rate() if len(written.lines) > 1 else None
        # Who has not ended is shown by what it did until then.
        return {
            "rate": rate,
            "out of order": float(written.out_of_order),
            "undone": float(not done),
        }
