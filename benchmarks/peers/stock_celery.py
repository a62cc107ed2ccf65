"""Stock Celery on Kombu's own Redis transport: no order."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks import work

app = Celery("stock", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    # What a dead worker had is given to another after so many seconds. The default is an hour.
    broker_transport_options={"visibility_timeout": 15},
)


@app.task(name="sync_turn")
def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into the one queue."""
    sync_turn.delay(turn)
