"""Where a turn's time goes: CPU of each process that has a part in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.cases import Plan
from benchmarks.cases.throughput import ONE
from benchmarks.peers import OURS, STOCK, Peer
from benchmarks.processes import Cpu
from benchmarks.results import Run, Table, interleaved
from benchmarks.world import World

TURNS, BATCHED_TURNS = 4_000, 20_000


def run(plan: Plan) -> Iterator[Table]:
    """Microseconds of CPU a turn."""
    if not plan.full:
        return
    contenders: dict[str, Run] = {
        f"{OURS.name}, batches of fifty": partial(measure, OURS, BATCHED_TURNS),
        f"{OURS.name}, batches of one": partial(measure, OURS, TURNS, env=ONE),
        STOCK.name: partial(measure, STOCK, TURNS),
    }
    for figure, series in interleaved(plan.runs, contenders).items():
        yield Table(
            f"profile-{figure.replace(' ', '-')}",
            f"CPU a turn, no-op writer, prefork with one process: {figure}",
            "µs",
            series,
            lower_is_better=True,
        )


def measure(
    peer: Peer, total: int, env: dict[str, str] | None = None
) -> Mapping[str, float | None]:
    """One run: the sender and the server while turns are sent, then the worker and the server."""
    with World(peer, pool="prefork", slots=1, env=env) as world:
        sender = world.sender(sessions=100, turns=total // 100)
        server = Cpu.of(world.server.pid)
        sent = sender.go()
        queued = Cpu.of(world.server.pid)
        world.start()
        if not world.wait(total // 10):
            return {}
        (worker,) = world.workers
        begun = world.count()
        main, pool, drained = (
            Cpu.of(worker.pid),
            Cpu.of_children(worker.pid),
            Cpu.of(world.server.pid),
        )
        world.wait(total)
        done = world.count() - begun
        figures = {
            "sender": sent.cpu / total,
            "server, while turns come": (queued - server) / total,
            "server, while they are worked off": (Cpu.of(world.server.pid) - drained) / done,
            "main process of the worker": (Cpu.of(worker.pid) - main) / done,
            "pool process": (Cpu.of_children(worker.pid) - pool) / done,
        }
        return {name: seconds * 1e6 for name, seconds in figures.items()}
