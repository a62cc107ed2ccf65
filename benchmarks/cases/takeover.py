"""How long the sessions of a worker killed by SIGKILL wait for another, beyond their lease."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.cases import Plan
from benchmarks.peers import OURS
from benchmarks.results import Bar, Series, Table
from benchmarks.world import World
from hermes_tasks.testing.waiting import wait_until

SESSIONS = 8
LEASE = 5.0
_ENV = {
    "HERMES_TASKS_LEASE_SECONDS": str(LEASE),
    # Over before the lease is: what is measured is the lease, not what may still land.
    "HERMES_TASKS_TIMEOUT_CEILING": "3",
    "HERMES_TASKS_LANDING_SECONDS": "0.5",
}


def run(plan: Plan) -> Iterator[Table]:
    """Seconds from SIGKILL, in the middle of its writes, until its sessions are all written."""
    series = Series("hermes_tasks", [measure() for _ in range(plan.runs)])
    worst = max(value for value in series.values if value is not None)
    yield Table(
        "takeover",
        f"SIGKILL of a worker with a lease of {LEASE:g} s, another beside it",
        "s",
        [series],
        lower_is_better=True,
        bars=[Bar("worst, beyond the lease", worst - LEASE, at_most=2.0)],
    )


def measure() -> float:
    """One run."""
    with World(OURS, latency=2.0, slots=SESSIONS, env=_ENV) as world:
        world.start()
        world.wait_ready()
        done = world.count()
        world.send(sessions=SESSIONS, turns=2)
        client = world.server.client()
        wait_until(
            lambda: client.zcard("{hermes}:leases") == SESSIONS, 30, "every session to be worked on"
        )
        (first,) = world.workers
        world.start()
        # The warm session has its own turn: the second worker takes it once it consumes.
        world.honcho.control(latency=0.0)
        world.kill(first)
        killed = time.monotonic()
        world.wait(done + SESSIONS)
        return time.monotonic() - killed
