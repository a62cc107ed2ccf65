"""Stock Celery on Kombu's own Redis transport: no order.

Acknowledged late, unless it is asked for with nothing set: what its worker had taken is then gone
if that dies.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks import work

app = Celery("stock", broker=os.environ["BENCH_BROKER"])
app.conf.broker_connection_retry_on_startup = True
if "BENCH_DEFAULTS" not in os.environ:
    # A task whose worker dies is then done by another, so many seconds later.
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        broker_transport_options={"visibility_timeout": 15},
    )


@app.task(name="sync_turn")
def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into the one queue."""
    sync_turn.delay(turn)
