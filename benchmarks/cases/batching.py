"""Batches against one write per turn: 20 sessions x 100 turns, a stand-in that takes 20 ms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS
from benchmarks.results import Bar, Run, Table, interleaved
from benchmarks.world import World

SESSIONS, TURNS, LATENCY = 20, 50, 0.02


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second."""
    contenders: dict[str, Run] = {
        "one write per turn": partial(measure, 1),
        "batches of 50": partial(measure, 50),
    }
    (series,) = interleaved(plan.runs, contenders).values()
    table = Table(
        "batching",
        f"Writer of 20 ms, {SESSIONS} sessions x {TURNS} turns, prefork with two processes",
        "turns/s",
        series,
    )
    ratio = table.ratio("batches of 50", "one write per turn")
    table.bars.append(Bar("batches / one write per turn", ratio, at_least=10.0))
    yield table


def measure(batch: int) -> Mapping[str, float | None]:
    """One run with at most ``batch`` turns a call."""
    env = {"HERMES_TASKS_BATCH_TURNS": str(batch)}
    with World(OURS, latency=LATENCY, pool="prefork", slots=2, env=env) as world:
        world.send(sessions=SESSIONS, turns=TURNS)
        world.start()
        if not world.wait(SESSIONS * TURNS):
            return {"rate": None}
        return {"rate": world.written().rate()}
