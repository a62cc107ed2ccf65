"""SIGKILL of the only worker in the middle of the work, and another one right after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import writer_seconds
from benchmarks.peers import OURS, Peer
from benchmarks.results import Bar, Kind, Run, Table, measured, named
from benchmarks.world import World

TITLE = "After SIGKILL"
ABOUT = """
A worker dies in the middle of its work, as when the kernel runs out of memory, and another is
started at once. Nobody may lose a turn who promises at least once; whoever knows what the dead
worker had begun need not write it twice. hermes_tasks asks Honcho for what may have arrived, and
waits until a call of the dead worker can no longer land before it asks for the last time: that
wait is most of its time, and is set by how long a call may take. "Short calls" has a lease of 5
s, calls of at most 2 s, and 2 s in which they may still land; the defaults are 15 s, 30 s and 15
s.

Processes are not pinned. The limit is the writer alone with what was left to be written.
"""
SESSIONS, TURNS, SLOTS = 200, 10, 32
#: Of the stand-in: lognormal, most calls between 5 and 100 ms.
LATENCY = {"median": 0.022, "sigma": 0.75}
#: The longest a run may take after the kill, in seconds.
STUCK = 75.0
#: Contenders that are measured at the same time.
AT_ONCE = 12
#: A lease of 5 s, and calls of at most 2 s that land 2 s later at most: who takes over a call whose
#: worker died waits for the lease, and until the call can no longer land.
SHORT = {
    "HERMES_TASKS_LEASE_SECONDS": "5",
    "HERMES_TASKS_TIMEOUT_CEILING": "2",
    "HERMES_TASKS_LANDING_SECONDS": "2",
}
KINDS = {
    "until all is written": Kind("s", lower_is_better=True),
    "undone": Kind("turns", lower_is_better=True),
    "twice": Kind("turns", lower_is_better=True),
    "out of order": Kind("sessions", lower_is_better=True),
}


def run(plan: Plan) -> Iterator[Table]:
    """Seconds until all is written; turns undone and twice; sessions out of order."""
    peers = [peer for peer in plan.peers if peer.redelivers] if plan.full else []
    contenders: dict[str, Run] = {f"{OURS.name}, short calls": partial(measure, OURS, SHORT)}
    contenders |= named(peers, lambda peer: partial(measure, peer))
    limit = (f"the writer alone, {SLOTS} slots", alone)
    seconds, *counts = measured(plan.runs, contenders, KINDS, limit, at_once=AT_ONCE)
    table = Table(
        "killed",
        f"SIGKILL of the only worker, {SESSIONS} sessions x {TURNS} turns",
        [seconds, *counts],
        note="What a dead worker had is given to another after 15 s, where there is such a "
        f"setting. Undone is what was still to be written after {STUCK:g} s."
        + f" {AT_ONCE} contenders at a time, which mostly wait." * plan.full
        + "".join(f" {peer.name} is given {peer.share:.0%}." for peer in peers if peer.share < 1),
    )
    for count in counts:
        ours = [series for series in count.series if series.name.startswith(OURS.name)]
        worst = max(value or 0.0 for series in ours for value in series.values)
        table.bars.append(Bar(f"after SIGKILL, {count.name}", worst, at_most=0.0))
    yield table


def alone() -> Mapping[str, float | None]:
    """What is left of each session, without a queue."""
    left = TURNS * 3 // 4
    taken = writer_seconds(SESSIONS, left, slots=SLOTS, together=50, latency=LATENCY)
    return {"until all is written": taken}


def measure(peer: Peer, env: dict[str, str] | None = None) -> Mapping[str, float | None]:
    """One run; what is written is what the stand-in stores."""
    turns = max(1, round(TURNS * peer.share))
    total = SESSIONS * turns
    with World(peer, latency=LATENCY, slots=SLOTS, env=env) as world:
        world.send(sessions=SESSIONS, turns=turns)
        world.start()
        world.wait(total // 4)
        world.kill()
        killed = time.monotonic()
        world.start()
        while (stored := len(world.stored().distinct)) < total:
            if time.monotonic() - killed > STUCK:
                break
            time.sleep(0.1)
        seconds = time.monotonic() - killed
        written = world.stored()
        return {
            "until all is written": seconds if stored == total else None,
            "undone": float(total - stored),
            "twice": float(written.twice),
            "out of order": float(written.out_of_order),
        }
