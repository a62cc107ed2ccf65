"""Memory of a worker after many turns: none may stay behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from benchmarks.cases import Plan
from benchmarks.peers import OURS
from benchmarks.processes import resident
from benchmarks.results import Bar, Figure, Series, Table
from benchmarks.world import World

TITLE = "Memory of a worker"
ABOUT = """
A worker runs for months. What its main process and its pool process have resident is compared
after a tenth of the turns, when caches are full, and after all of them: anything that is kept of
a turn or of a session would show. Every portion of turns is of sessions that the worker has not
seen before.
"""
#: More sessions than any cache of a worker keeps.
CACHED = 5_000
#: Turns that are queued at a time, and sessions that they are of.
PORTION, SESSIONS = 10_000, 200
MEGABYTE = 1 << 20


def run(plan: Plan) -> Iterator[Table]:
    """Megabytes after each tenth."""
    total = 1_000_000 if plan.full else 100_000
    after = {total // 10 * tenth: Series("") for tenth in (1, 2, 5, 10)}
    main, pool = [], []
    with World(OURS, pool="prefork", slots=1) as world:
        world.start()
        world.wait_consuming(1)
        (worker,) = world.workers
        sender = world.sender()
        # Caches that keep what they have been asked for: full.
        sender.go(sessions=CACHED, turns=1, name="before")
        if not world.wait(CACHED):
            raise TimeoutError(f"{world.count():,} of {CACHED:,} turns: {world.log()[-1000:]}")
        for done in range(PORTION, total + 1, PORTION):
            # Queued while it stands still, so that it writes batches of fifty.
            world.signal(signal.SIGSTOP)
            sender.go(sessions=SESSIONS, turns=PORTION // SESSIONS, name=f"after{done}-")
            world.signal(signal.SIGCONT)
            if not world.wait(CACHED + done):
                raise TimeoutError(f"{world.count():,} of {done:,} turns: {world.log()[-1000:]}")
            if done in after:
                of_main, of_pool = resident(worker.pid)
                name = f"after {done:,} turns"
                main.append(Series(name, [of_main / MEGABYTE]))
                pool.append(Series(name, [of_pool / MEGABYTE]))
    grown = [(one[-1].values[0] or 0.0) - (one[0].values[0] or 0.0) for one in (main, pool)]
    yield Table(
        "memory",
        f"Resident memory of a worker, no-op writer, {total:,} turns of "
        f"{total // PORTION * SESSIONS:,} sessions",
        [
            Figure("main process", "MB", main, lower_is_better=True),
            Figure("pool process", "MB", pool, lower_is_better=True),
        ],
        note="One run: it is the same process that is looked at again.",
        bars=[Bar("MB that a worker grows", sum(grown), at_most=4.0)],
        stacked=True,
    )
