"""Drain after an outage: what waits in every session is written, 20 ms a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS, SHARDED, THREAD, Peer
from benchmarks.results import Run, Table, interleaved
from benchmarks.world import World

SESSIONS, TURNS, LATENCY = 200, 64, 0.02
TOTAL = SESSIONS * TURNS
_TITLES = {
    "seconds": ("time to empty", "s", True),
    "calls": ("calls to the writer", "calls", True),
    "fairness": ("Jain's index over sessions at half time", "1 is fair", False),
    "lag p50": ("half of the turns written after", "s", True),
    "lag p99": ("99 % of the turns written after", "s", True),
}


def run(plan: Plan) -> Iterator[Table]:
    """Time, calls, fairness and lag."""
    left_out = (THREAD,) if plan.full else tuple(peer for peer in plan.peers if peer is not OURS)
    # Four shards, one call at a time, are 200 turns a second by arithmetic: a minute a run.
    left_out += (SHARDED,)
    contenders: dict[str, Run] = {
        peer.name: partial(measure, peer) for peer in plan.peers if peer not in left_out
    }
    for figure, series in interleaved(plan.runs if not plan.full else 3, contenders).items():
        title, unit, lower = _TITLES[figure]
        yield Table(
            f"drain-{figure.replace(' ', '-')}",
            f"Drain of {SESSIONS} sessions x {TURNS} turns, writer of 20 ms: {title}",
            unit,
            series,
            lower_is_better=lower,
        )


def measure(peer: Peer) -> Mapping[str, float | None]:
    """One run."""
    with World(peer, latency=LATENCY) as world:
        world.send(sessions=SESSIONS, turns=TURNS)
        world.start()
        if not world.wait(TOTAL):
            return dict.fromkeys(_TITLES)
        written = world.written()
        begin = written.lines[0][2]
        lags = sorted(at - begin for _, _, at in written.lines)
        return {
            "seconds": lags[-1],
            "calls": float(world.honcho.stats()["calls"]["messages"]),
            "fairness": written.fairness(),
            "lag p50": lags[len(lags) // 2],
            "lag p99": lags[len(lags) * 99 // 100],
        }
