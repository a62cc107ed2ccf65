"""SIGKILL of the only worker in the middle of the work, and another one right after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS, Peer
from benchmarks.results import Bar, Run, Series, Table, interleaved
from benchmarks.world import World

SESSIONS, TURNS = 200, 10
TOTAL = SESSIONS * TURNS
#: Of the stand-in: lognormal, most calls between 5 and 100 ms.
LATENCY = {"median": 0.022, "sigma": 0.75}
#: The longest a run may take after the kill, in seconds.
LIMIT = 90.0
#: Calls of at most 5 s that land 5 s later at most: who takes over a call whose worker died waits
#: as long as those two together.
SHORT = {"HERMES_TASKS_TIMEOUT_CEILING": "5", "HERMES_TASKS_LANDING_SECONDS": "5"}


def run(plan: Plan) -> Iterator[Table]:
    """Seconds until all is written; turns undone and twice; sessions out of order."""
    peers = [peer for peer in plan.peers if peer.redelivers]
    contenders: dict[str, Run] = {f"{OURS.name}, 5 s + 5 s": partial(measure, OURS, SHORT)}
    if plan.full:
        contenders |= {peer.name: partial(measure, peer) for peer in peers}
    runs = plan.runs if plan.full else 1
    figures = interleaved(runs, contenders)
    seconds = Table(
        "killed",
        f"SIGKILL of the only worker, {SESSIONS} sessions x {TURNS} turns: "
        "until another has written all",
        "s",
        figures["seconds"],
        lower_is_better=True,
        note=f"{runs} run{'s' * (runs > 1)}. "
        "What a dead worker had is given to another after 15 s, where there is such a setting. "
        + "; ".join(
            f"{name}: {_said(figures[name])}" for name in ("undone", "twice", "out of order")
        )
        + ".",
    )
    for name in ("undone", "twice", "out of order"):
        ours = [series for series in figures[name] if series.name.startswith(OURS.name)]
        worst = max(value or 0.0 for series in ours for value in series.values)
        seconds.bars.append(Bar(f"hermes_tasks, {name}", worst, at_most=0.0))
    yield seconds


def _said(series: list[Series]) -> str:
    return ", ".join(f"{one.name} {one.median or 0:g}" for one in series)


def measure(peer: Peer, env: dict[str, str] | None = None) -> Mapping[str, float | None]:
    """One run; what is written is what the stand-in stores."""
    with World(peer, latency=LATENCY, env=env) as world:
        world.send(sessions=SESSIONS, turns=TURNS)
        world.start()
        world.wait(TOTAL // 4)
        world.kill()
        killed = time.monotonic()
        world.start()
        while (stored := len(world.stored().distinct)) < TOTAL:
            if time.monotonic() - killed > LIMIT:
                break
            time.sleep(0.1)
        seconds = time.monotonic() - killed
        written = world.stored()
        return {
            "seconds": seconds if stored == TOTAL else None,
            "undone": float(TOTAL - stored),
            "twice": float(written.twice),
            "out of order": float(written.out_of_order),
        }
