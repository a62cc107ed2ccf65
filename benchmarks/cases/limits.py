"""Limits of the same machine: the least that any contender has to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.cases import Plan
from benchmarks.limits import STORED, TOGETHER, Insert, redis_seconds, writer_seconds
from benchmarks.placing import Placement, placements
from benchmarks.results import Kind, Run, Table, measured

TITLE = "Limits of this machine"
ABOUT = """
What the parts that every queue is made of can do here, without a queue: Redis asked for one thing
at a time and for fifty at once, a row into SQLite, calls to the stand-in for Honcho that take 20
ms. No result below can be better than the limit it is a share of. Where client and server share a
core a round trip is several times cheaper than across two, so both are measured.
"""
COUNT = 2_000
SLOTS = 32


def run(plan: Plan) -> Iterator[Table]:
    """Operations a second."""
    contenders: dict[str, Run] = {}
    for placement in placements():
        for script, name in ((False, "LPUSH"), (True, "EVALSHA of an LPUSH")):
            for together in (1, TOGETHER):
                title = f"{name}, {placement.name}"
                if together > 1:
                    title += f", {together} a round trip"
                contenders[title] = partial(
                    _rate, partial(_redis, script=script, together=together, placement=placement)
                )
    contenders["SQLite insert, WAL"] = partial(_rate, _sqlite)
    yield Table(
        "limits",
        f"{STORED:,} bytes each",
        measured(plan.runs, contenders, {"rate": Kind("a second")}),
        note="One client with one thread.",
    )
    writers: dict[str, Run] = {
        "a turn a call, one connection": partial(_writer, 1, 50, 1, 1),
        "50 turns a call, one connection": partial(_writer, 1, 500, 1, 50),
        f"a turn a call, {SLOTS} connections": partial(_writer, 64, 10, SLOTS, 1),
        f"50 turns a call, {SLOTS} connections": partial(_writer, 64, 100, SLOTS, 50),
    }
    yield Table(
        "limits-writer",
        "The writer alone, 20 ms a call",
        measured(plan.runs, writers, {"rate": Kind("turns/s")}),
        note="Turns of 1 KB, threads that do nothing else, no queue.",
    )


def _rate(seconds: Callable[[], float]) -> dict[str, float | None]:
    return {"rate": 1 / seconds()}


def _redis(*, script: bool, together: int, placement: Placement) -> float:
    count = COUNT if together == 1 else 4 * COUNT
    return redis_seconds(count, script=script, together=together, placement=placement)


def _sqlite() -> float:
    return sum(Insert(STORED).calls(COUNT)) / COUNT


def _writer(sessions: int, turns: int, slots: int, together: int) -> dict[str, float | None]:
    taken = writer_seconds(sessions, turns, slots=slots, together=together)
    return {"rate": sessions * turns / taken}
