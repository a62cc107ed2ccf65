"""Batches of one against stock Celery: 100 sessions x 20 turns of 1 KB, a no-op writer."""

from __future__ import annotations

import os
from collections.abc import Callable

from benchmarks.harness import Result, empty_server, interleaved, settings_for, timed_drain, turn_of
from benchmarks.harness import worker as running_worker
from hermes_tasks.app import TASK, make_app
from hermes_tasks.transport import SessionStore

SESSIONS, TURNS = 100, 20
TOTAL = SESSIONS * TURNS


def ordered() -> float:
    """Turns a second through session queues, one turn a batch."""
    with empty_server() as server:
        app = make_app(settings_for(server.url), set_as_current=False)
        task = app.tasks[TASK]
        store = SessionStore(server.client())
        env = {
            "HERMES_TASKS_BROKER_URL": server.url,
            "HERMES_TASKS_BATCH_TURNS": "1",
            "HONCHO_URL": "http://127.0.0.1:9",
        }
        for index in range(TURNS):
            for session in range(SESSIONS):
                task.apply_async((turn_of(session, index).to_json(),))
        with running_worker(["-c", "2", "-I", "benchmarks.noop", *_QUIET], env):
            seconds = timed_drain(lambda: store.counters().get("written", 0), TOTAL)
        return TOTAL / seconds


def stock() -> float:
    """Turns a second through one stock Celery queue."""
    with empty_server() as server:
        os.environ["STOCK_BROKER_URL"] = server.url
        from benchmarks.stock import app

        app.conf.broker_url = server.url
        client = server.client()
        with app.connection_for_write(server.url) as connection:
            producer = app.amqp.Producer(connection, auto_declare=False)
            for index in range(TURNS):
                for session in range(SESSIONS):
                    app.tasks["stock.sync_turn"].apply_async(
                        (turn_of(session, index).to_json(),), producer=producer
                    )

        def done() -> int:
            with client.pipeline() as pipe:
                pipe.llen("celery")
                pipe.hlen("unacked")
                left: int = sum(pipe.execute())
            return TOTAL - left

        env = {"STOCK_BROKER_URL": server.url}
        with running_worker(["-c", "2", *_QUIET], env, app="benchmarks.stock"):
            seconds = timed_drain(done, TOTAL)
        return TOTAL / seconds


_QUIET = ("--without-gossip", "--without-mingle", "-l", "WARNING")
CONTENDERS: dict[str, Callable[[], float]] = {"stock Celery": stock, "hermes_tasks": ordered}


def run(runs: int) -> list[Result]:
    """Turns a second of each."""
    return interleaved(runs, CONTENDERS)
