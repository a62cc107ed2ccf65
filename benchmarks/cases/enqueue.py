"""Enqueue, as the caller sees it: how long the call takes that hands a turn over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS, Peer
from benchmarks.results import Bar, Series, Table, interleaved, named
from benchmarks.world import World

#: Calls of a run, and seconds between them: a busy gateway, not a flood.
CALLS, PACE = 400, 0.002
#: Seconds after which a call that has not returned is given up; it counts as that long.
PATIENCE = 1.0
_FIGURES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def run(plan: Plan) -> Iterator[Table]:
    """Quantiles of the call in microseconds, by size and by how Redis is."""
    sizes = (1_000, 50_000) if plan.full else (1_000,)
    for size in sizes:
        for dead in (False, True):
            yield from _tables(plan, size, dead)


def _tables(plan: Plan, size: int, dead: bool) -> Iterator[Table]:
    peers = plan.peers if dead else plan.every
    figures = interleaved(
        plan.runs, named(peers, lambda peer: partial(measure, peer, size, dead=dead))
    )
    state = "Redis a black hole" if dead else "Redis healthy"
    for figure, series in figures.items():
        yield Table(
            f"enqueue-{size // 1000}k-{'dead' if dead else 'healthy'}-{figure}",
            f"Enqueue a turn of {size // 1000} KB, {state}: {figure}",
            "µs",
            series,
            lower_is_better=True,
            note=f"{CALLS} calls, {PACE * 1000:g} ms apart. A call that did not return within "
            f"{PATIENCE:g} s counts as that long."
            if dead
            else f"{CALLS} calls, {PACE * 1000:g} ms apart.",
            bars=_bars(figure, series) if size == 1_000 else [],
        )


def _bars(figure: str, series: list[Series]) -> list[Bar]:
    most = {"p50": 60.0, "p99": 300.0}.get(figure)
    ours = next(one for one in series if one.name == OURS.name)
    return [] if most is None else [Bar(f"{OURS.name}, {figure}", ours.median, at_most=most)]


def measure(peer: Peer, size: int, *, dead: bool) -> Mapping[str, float]:
    """Quantiles of one run, in microseconds."""
    with World(peer) as world:
        limit = PATIENCE if dead else 60.0
        sender = world.sender(sessions=20, turns=CALLS // 20, size=size, pace=PACE, limit=limit)
        if dead and peer.store:
            world.server.pause()
        sent = sender.go()
        return {name: sent.quantile(share) * 1e6 for name, share in _FIGURES.items()}
