"""How long the sessions of a worker killed by SIGKILL wait for another, beyond their lease."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.cases import Plan
from benchmarks.peers import OURS
from benchmarks.results import Bar, Figure, Series, Table
from benchmarks.world import World
from hermes_tasks.testing.waiting import wait_until

TITLE = "Takeover"
ABOUT = """
Two workers have eight sessions each when one of them dies: how long until the other has written
those of both. No worker knows that another is dead before its lease has run out, so the limit is
the lease, which is 15 s unless it is set.
"""
SESSIONS = 8
LEASE = 5.0
#: Of the stand-in until the kill, in seconds: every slot is at work then.
LATENCY = 2.0
_ENV = {
    "HERMES_TASKS_LEASE_SECONDS": str(LEASE),
    # Over before the lease is: what is measured is the lease, not what may still land.
    "HERMES_TASKS_TIMEOUT_CEILING": "3",
    "HERMES_TASKS_LANDING_SECONDS": "0.5",
}


def run(plan: Plan) -> Iterator[Table]:
    """Seconds from SIGKILL, in the middle of its writes, until its sessions are all written."""
    if not plan.full:
        return
    series = Series(OURS.name, [measure() for _ in range(plan.runs)])
    limit = Series("the lease", [LEASE])
    worst = max((value for value in series.values if value is not None), default=float("inf"))
    yield Table(
        "takeover",
        f"SIGKILL of a worker with a lease of {LEASE:g} s, another beside it",
        [Figure("until all is written", "s", [series], lower_is_better=True, limit=limit)],
        note="The other consumes before the turns are sent. A lease that was renewed some time "
        "before the kill ends so much earlier.",
        bars=[Bar("s beyond the lease, worst run", worst - LEASE, at_most=2.0)],
    )


def measure() -> float | None:
    """One run; ``None``: it was stuck."""
    with World(OURS, latency=0.0, slots=SESSIONS, env=_ENV) as world:
        world.start(2)
        world.wait_consuming(2)
        sender = world.sender()
        world.wait_settled()
        world.honcho.control(latency=LATENCY)
        sender.go(sessions=2 * SESSIONS, turns=1)
        with world.server.client() as client:
            wait_until(
                lambda: client.zcard("{hermes}:leases") == 2 * SESSIONS,
                LATENCY,
                "both workers to have as many sessions as they have slots",
                interval=0.005,
            )
        world.honcho.control(latency=0.0)
        world.kill(world.workers[0])
        killed = time.monotonic()
        done = world.wait(2 * SESSIONS)
        return time.monotonic() - killed if done else None
