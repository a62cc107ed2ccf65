"""Batches against one write per turn: 20 sessions x 100 turns, a stand-in that takes 20 ms."""

from __future__ import annotations

from benchmarks.harness import Result, empty_server, interleaved, settings_for, timed_drain, turn_of
from benchmarks.harness import worker as running_worker
from hermes_tasks.app import TASK, make_app
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.transport import SessionStore

SESSIONS, TURNS = 20, 100
TOTAL = SESSIONS * TURNS
LATENCY = 0.02


def drain(batch: int) -> float:
    """Turns a second with at most ``batch`` turns a call."""
    with empty_server() as server, HonchoServer() as honcho:
        honcho.control(latency=LATENCY)
        settings = settings_for(server.url)
        task = make_app(settings, set_as_current=False).tasks[TASK]
        store = SessionStore(server.client())
        # As where a worker ran before: turns older than the first one are asked about, a call more.
        store.note_server()
        env = {
            "HERMES_TASKS_BROKER_URL": server.url,
            "HERMES_TASKS_BATCH_TURNS": str(batch),
            "HONCHO_URL": honcho.url,
        }
        for index in range(TURNS):
            for session in range(SESSIONS):
                task.apply_async((turn_of(session, index).to_json(),))
        with running_worker(["-c", "2", "-l", "WARNING"], env):
            seconds = timed_drain(lambda: store.counters().get("written", 0), TOTAL)
        return TOTAL / seconds


def run(runs: int) -> list[Result]:
    """Turns a second of each."""
    return interleaved(
        runs, {"one write per turn": lambda: drain(1), "batches of 50": lambda: drain(50)}
    )
