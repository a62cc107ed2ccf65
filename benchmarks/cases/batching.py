"""Batches against one write per turn: what reading a session's turns together is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import writer_seconds
from benchmarks.peers import OURS
from benchmarks.results import Bar, Kind, Run, Table, measured
from benchmarks.world import World

TITLE = "Batches"
ABOUT = """
The same deployment with fifty turns a call and with one: what a backlog costs with and without
batches. Honcho takes a hundred messages in a call; here a call takes 20 ms, however many it has.
"""
SESSIONS, TURNS, LATENCY, SLOTS = 10, 50, 0.02, 2


def run(plan: Plan) -> Iterator[Table]:
    """Turns a second."""
    if not plan.full:
        return
    contenders: dict[str, Run] = {
        "batches of 50": partial(measure, 50),
        "one write per turn": partial(measure, 1),
    }
    limit = ("the writer alone, 2 slots", alone)
    (rate,) = measured(plan.runs, contenders, {"rate": Kind("turns/s")}, limit)
    ratio = rate.ratio("batches of 50", "one write per turn")
    yield Table(
        "batching",
        f"Writer of 20 ms, {SESSIONS} sessions x {TURNS} turns, prefork with two processes",
        [rate],
        bars=[Bar("batches / one write per turn", ratio, at_least=10.0)],
    )


def alone() -> Mapping[str, float | None]:
    """Without a queue."""
    taken = writer_seconds(SESSIONS, TURNS, slots=SLOTS, together=50, latency=LATENCY)
    return {"rate": SESSIONS * TURNS / taken}


def measure(batch: int) -> Mapping[str, float | None]:
    """One run with at most ``batch`` turns a call."""
    env = {"HERMES_TASKS_BATCH_TURNS": str(batch)}
    with World(OURS, latency=LATENCY, pool="prefork", slots=SLOTS, env=env) as world:
        world.send(sessions=SESSIONS, turns=TURNS)
        world.start()
        if not world.wait(SESSIONS * TURNS):
            return {"rate": None}
        return {"rate": world.written().rate(LATENCY)}
