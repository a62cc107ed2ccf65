"""Ordered throughput: each turn is written to the stand-in, which takes 20 ms.

Here order costs: who keeps it writes one turn of a session at a time, or several in one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import writer_seconds
from benchmarks.peers import OURS, STOCK, THREAD, Peer
from benchmarks.results import Bar, Kind, Series, Table, measured, named
from benchmarks.world import World

TITLE = "Throughput in order"
ABOUT = """
Turns a second to a writer that takes 20 ms, as Honcho does on a good day, and how many sessions
were then written in another order than they were said. Memory that is out of order is wrong, so
the bar is against those that keep it: hermes_tasks, a queue for each shard of the sessions with
one slot, a lock per session in PostgreSQL, and the thread. One hot session is where order costs
most: whoever writes a turn a call has one call at a time.

A lock per session in Redis keeps two turns from being written at once, and their order not.
Processes are not pinned. The limit is the writer alone with as many slots, and with batches as
large as hermes_tasks writes.
"""
LATENCY = 0.02
SLOTS = 32
#: The longest a run may take, in seconds.
STUCK = 60.0
KINDS = {
    "rate": Kind("turns/s"),
    "sessions out of order": Kind("sessions", lower_is_better=True),
    "undone": Kind("turns", lower_is_better=True),
}


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second, and sessions out of order."""
    yield case(plan, 200, 10 if plan.full else 3)
    yield case(plan, 1, 300 if plan.full else 100)


def case(plan: Plan, sessions: int, turns: int) -> Table:
    """So many sessions, of so many turns each."""
    # In order is what matters: those that do not keep it are for the full run, but for one, once.
    shown = plan.peers if plan.full else [STOCK] * (sessions > 1)
    peers = [peer for peer in plan.peers if peer.keeps_order or peer in shown]
    rate, order, undone = measured(
        plan.runs,
        named(peers, lambda peer: partial(measure, peer, sessions, turns)),
        KINDS,
        (f"the writer alone, {min(SLOTS, sessions)} slots", partial(alone, sessions, turns)),
    )
    keeping = [
        rate[peer.name]
        for peer in peers
        if peer.keeps_order and peer is not OURS and not any(order[peer.name].values)
    ]
    best = max(keeping, key=lambda series: series.median or 0.0, default=Series("none"))
    ours = rate[OURS.name].median
    given = ", ".join(f"{peer.name} {peer.share:.0%}" for peer in peers if peer.share < 1)
    worst = max((value or 0.0 for value in order[OURS.name].values), default=0.0)
    title = f"{sessions} session{'s' * (sessions > 1)} x {turns} turns"
    return Table(
        f"ordered-{sessions}",
        f"Writer of 20 ms, {title}",
        [rate, order, undone],
        note="32 slots where there is such a number. Undone is what was still to be written "
        f"after {STUCK:g} s; the rate is that of the rest. So that it ends, of the turns are given "
        f"to {given}.",
        bars=[
            Bar(
                f"{title} / the best that keeps order ({best.name})",
                ours / best.median if ours and best.median else None,
                at_least=1.0 if sessions > 1 else 20.0,
            ),
            Bar(f"sessions out of order, {title}", worst, at_most=0.0),
        ],
    )


def alone(sessions: int, turns: int) -> Mapping[str, float | None]:
    """Without a queue."""
    taken = writer_seconds(sessions, turns, slots=SLOTS, together=50, latency=LATENCY)
    return {"rate": sessions * turns / taken}


def measure(peer: Peer, sessions: int, turns: int) -> Mapping[str, float | None]:
    """One run."""
    turns = max(1, round(turns * peer.share))
    total = sessions * turns
    with World(peer, latency=LATENCY, slots=SLOTS) as world:
        if peer is THREAD:
            # What it has not written ends with its process: it is waited for.
            world.sender().go(sessions=sessions, turns=turns, limit=STUCK)
        else:
            world.send(sessions=sessions, turns=turns)
            world.start()
        world.wait(total, STUCK)
        written = world.written()
        # Who has not ended is shown by what it did until then.
        return {
            "rate": written.rate(LATENCY) if len(written.lines) > 1 else None,
            "sessions out of order": float(written.out_of_order),
            "undone": float(total - len(written.distinct)),
        }
