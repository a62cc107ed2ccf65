"""SIGKILL of the only worker in the middle of the work, and another one right after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import writer_seconds
from benchmarks.peers import OURS, Peer
from benchmarks.results import Bar, Kind, Run, Table, measured
from benchmarks.world import World

TITLE = "After SIGKILL"
ABOUT = """
A worker dies in the middle of its work, as when the kernel runs out of memory, and another is
started at once. Nobody may lose a turn who promises at least once; whoever knows what the dead
worker had begun need not write it twice. hermes_tasks asks Honcho for what may have arrived, and
waits until a call of the dead worker can no longer land before it asks for the last time: that
wait is most of its time, and is set by how long a call may take. The first row has calls of at
most 5 s that land at most 5 s later, the defaults allow for much longer ones.

Processes are not pinned. The limit is the writer alone with what was left to be written.
"""
SESSIONS, TURNS, SLOTS = 200, 10, 32
TOTAL = SESSIONS * TURNS
#: Of the stand-in: lognormal, most calls between 5 and 100 ms.
LATENCY = {"median": 0.022, "sigma": 0.75}
#: The longest a run may take after the kill, in seconds.
STUCK = 90.0
#: Calls of at most 5 s that land 5 s later at most: who takes over a call whose worker died waits
#: as long as those two together.
SHORT = {"HERMES_TASKS_TIMEOUT_CEILING": "5", "HERMES_TASKS_LANDING_SECONDS": "5"}
KINDS = {
    "until all is written": Kind("s", lower_is_better=True),
    "undone": Kind("turns", lower_is_better=True),
    "twice": Kind("turns", lower_is_better=True),
    "out of order": Kind("sessions", lower_is_better=True),
}


def run(plan: Plan) -> Iterator[Table]:
    """Seconds until all is written; turns undone and twice; sessions out of order."""
    contenders: dict[str, Run] = {f"{OURS.name}, 5 s + 5 s": partial(measure, OURS, SHORT)}
    if plan.full:
        contenders |= {peer.name: partial(measure, peer) for peer in plan.peers if peer.redelivers}
    limit = (f"the writer alone, {SLOTS} slots", alone)
    seconds, *counts = measured(plan.runs, contenders, KINDS, limit)
    table = Table(
        "killed",
        f"SIGKILL of the only worker, {SESSIONS} sessions x {TURNS} turns",
        [seconds, *counts],
        note="What a dead worker had is given to another after 15 s, where there is such a "
        f"setting. Undone is what was still to be written after {STUCK:g} s.",
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
    with World(peer, latency=LATENCY, slots=SLOTS, env=env) as world:
        world.send(sessions=SESSIONS, turns=TURNS)
        world.start()
        world.wait(TOTAL // 4)
        world.kill()
        killed = time.monotonic()
        world.start()
        while (stored := len(world.stored().distinct)) < TOTAL:
            if time.monotonic() - killed > STUCK:
                break
            time.sleep(0.1)
        seconds = time.monotonic() - killed
        written = world.stored()
        return {
            "until all is written": seconds if stored == TOTAL else None,
            "undone": float(TOTAL - stored),
            "twice": float(written.twice),
            "out of order": float(written.out_of_order),
        }
