"""How long the sessions of a worker killed by SIGKILL wait for another, beyond their lease."""

from __future__ import annotations

import time

from benchmarks.harness import STUCK, Result, empty_server, interleaved, settings_for, turn_of
from benchmarks.harness import worker as running_worker
from hermes_tasks.app import TASK, make_app
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.transport import SessionStore

SESSIONS = 8
LEASE = 5.0


def kill() -> float:
    """Seconds from SIGKILL, in the middle of its writes, until its sessions are all written."""
    with empty_server() as server, HonchoServer() as honcho:
        task = make_app(settings_for(server.url), set_as_current=False).tasks[TASK]
        client = server.client()
        store = SessionStore(client)
        env = {
            "HERMES_TASKS_BROKER_URL": server.url,
            "HERMES_TASKS_LEASE_SECONDS": str(LEASE),
            # Over before the lease is: what is measured is the lease, not what may still land.
            "HERMES_TASKS_TIMEOUT_CEILING": "3",
            "HERMES_TASKS_LANDING_SECONDS": "0.5",
            "HONCHO_URL": honcho.url,
        }
        honcho.control(latency=2.0)
        arguments = ["-P", "threads", "-c", str(SESSIONS), "-l", "INFO"]
        with running_worker([*arguments, "-n", "first@%h"], env) as first:
            for session in range(SESSIONS):
                task.apply_async((turn_of(session, 0).to_json(),))
            _wait(lambda: client.zcard("{hermes}:leases") == SESSIONS)
            with running_worker([*arguments, "-n", "second@%h"], env) as second:
                second.wait_ready()
                honcho.control(latency=0.0)
                first.kill()
                killed = time.monotonic()
                _wait(lambda: store.counters().get("written", 0) == SESSIONS)
                return time.monotonic() - killed


def _wait(condition: object) -> None:
    give_up = time.monotonic() + STUCK
    assert callable(condition)
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError("stuck")
        time.sleep(0.005)


def run(runs: int) -> list[Result]:
    """Seconds from the kill."""
    return interleaved(runs, {"written after a kill": kill})
