"""Drain after an outage: what waits in every session is written, 20 ms a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import writer_seconds
from benchmarks.peers import DRAMATIQ, OURS, STOCK, Peer
from benchmarks.results import Kind, Table, measured, named
from benchmarks.sender import WARM
from benchmarks.world import World

TITLE = "Drain after an outage"
ABOUT = """
Honcho was away for an hour and is back: how long until all that waits is written, how many calls
that takes of it, and whether some sessions wait for others. Jain's index is 1 when all sessions
are served alike, and one over their number when one of them is served alone; at half time it shows
a queue that works off one session after the other. The lags count from the first turn that is
written.

Processes are not pinned. The limit is the writer alone, 32 calls at a time of up to fifty turns.
"""
SESSIONS, TURNS, LATENCY, SLOTS = 200, 64, 0.02, 32
#: Sessions of the quick run.
FEWER = 100
#: What most would pick, and the quickest of all that write a turn a call: a run takes the others a
#: minute and more.
CONTENDERS = (OURS, STOCK, DRAMATIQ)
KINDS = {
    "time to empty": Kind("s", lower_is_better=True),
    "lag p50": Kind("s", lower_is_better=True),
    "lag p99": Kind("s", lower_is_better=True),
    "calls to the writer": Kind("calls", lower_is_better=True),
    "Jain's index at half time": Kind("1 is fair"),
}


def run(plan: Plan) -> Iterator[Table]:
    """Time, calls, fairness and lag."""
    peers = CONTENDERS if plan.full else (OURS,)
    sessions = SESSIONS if plan.full else FEWER
    yield Table(
        "drain",
        f"{sessions} sessions x {TURNS} turns, writer of 20 ms",
        measured(
            plan.runs,
            named(peers, lambda peer: partial(measure, peer, sessions)),
            KINDS,
            (f"the writer alone, {SLOTS} slots", partial(alone, sessions)),
        ),
        note="" if plan.full else "The contenders are measured by `make bench-full`.",
    )


def alone(sessions: int) -> Mapping[str, float | None]:
    """Without a queue."""
    taken = writer_seconds(sessions, TURNS, slots=SLOTS, together=50, latency=LATENCY)
    calls = float(sessions * -(-TURNS // 50))
    return {
        "time to empty": taken,
        "lag p50": taken / 2,
        "lag p99": taken * 0.99,
        "calls to the writer": calls,
    }


def measure(peer: Peer, sessions: int) -> Mapping[str, float | None]:
    """One run."""
    with World(peer, latency=LATENCY, slots=SLOTS) as world:
        world.send(sessions=sessions, turns=TURNS)
        world.start()
        if not world.wait(sessions * TURNS):
            return dict.fromkeys(KINDS)
        written = world.written()
        begin = written.lines[0][2] - LATENCY
        lags = sorted(at - begin for _, _, at in written.lines)
        return {
            "time to empty": lags[-1],
            "lag p50": lags[len(lags) // 2],
            "lag p99": lags[len(lags) * 99 // 100],
            "calls to the writer": float(world.honcho.stats()["calls"]["messages"] - WARM),
            "Jain's index at half time": written.fairness(),
        }
