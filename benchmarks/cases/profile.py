"""Where a turn's time goes: microseconds of CPU of every process that has a part in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.cases.throughput import ONE
from benchmarks.peers import OURS, STOCK, Peer
from benchmarks.processes import Cpu
from benchmarks.results import Kind, Run, Table, measured
from benchmarks.world import World

TITLE = "Where a turn's time goes"
ABOUT = """
Microseconds of CPU for one turn, in every process that has a part in it: the gateway that sends
it, Redis while it is sent and while it is worked off, the worker's main process, which claims and
acknowledges, its pool process, which writes, and within that the HTTP client. It says what a
deployment costs, and which part is worth making quicker. The time that a call to Honcho waits for
its answer is none of it.
"""
TURNS, BATCHED_TURNS, SESSIONS = 2_000, 20_000, 100
_HTTP = "HTTP"
PARTS = (
    "gateway",
    "Redis, sent to",
    "Redis, worked off",
    "worker, main process",
    "worker, pool process",
    _HTTP,
)


def run(plan: Plan) -> Iterator[Table]:
    """Microseconds of CPU a turn."""
    if not plan.full:
        return
    contenders: dict[str, Run] = {
        f"{OURS.name}, batches": partial(measure, OURS, BATCHED_TURNS),
        f"{OURS.name}, one by one": partial(measure, OURS, TURNS, env=ONE),
        STOCK.name: partial(measure, STOCK, TURNS),
        f"{OURS.name}, batches, HTTP": partial(measure, OURS, BATCHED_TURNS, latency=0.0),
        f"{OURS.name}, one by one, HTTP": partial(measure, OURS, TURNS, env=ONE, latency=0.0),
        f"{STOCK.name}, HTTP": partial(measure, STOCK, TURNS, latency=0.0),
    }
    yield Table(
        "profile",
        "CPU a turn, prefork with one process",
        measured(plan.runs, contenders, dict.fromkeys(PARTS, Kind("µs", lower_is_better=True))),
        note=f"{SESSIONS} sessions; {BATCHED_TURNS:,} turns in batches, {TURNS:,} one by one. "
        "With HTTP the writer calls a stand-in that answers at once, hermes_tasks through the gate "
        "and Honcho's SDK; without, it writes nowhere.",
        stacked=True,
    )


def measure(
    peer: Peer, total: int, env: dict[str, str] | None = None, latency: float | None = None
) -> Mapping[str, float | None]:
    """One run: the sender and the server while turns are sent, then the worker and the server."""
    more = {"BENCH_HTTP_TIME": "1", **(env or {})}
    with World(peer, pool="prefork", slots=1, env=more, latency=latency) as world:
        sender = world.sender()
        server = Cpu.of(world.server.pid)
        sent = sender.go(sessions=SESSIONS, turns=total // SESSIONS)
        queued = Cpu.of(world.server.pid)
        sender.close()
        world.start()
        # Until then it starts.
        if not world.wait(total // 10):
            return dict.fromkeys(PARTS)
        (worker,) = world.workers
        begun, http_begun = world.count(), world.http_seconds()
        main, pool = Cpu.of(worker.pid), Cpu.of_children(worker.pid)
        drained = Cpu.of(world.server.pid)
        world.wait(total)
        done = world.count() - begun
        http = world.http_seconds() - http_begun
        figures = {
            "gateway": sent.cpu / total,
            "Redis, sent to": (queued - server) / total,
            "Redis, worked off": (Cpu.of(world.server.pid) - drained) / done,
            "worker, main process": (Cpu.of(worker.pid) - main) / done,
            "worker, pool process": (Cpu.of_children(worker.pid) - pool - http) / done,
            _HTTP: http / done,
        }
        return {name: seconds * 1e6 for name, seconds in figures.items()}
