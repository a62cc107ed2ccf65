"""The same no-op as a stock Celery app on Kombu's own Redis transport: no order, no lease."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("stock", broker=os.environ.get("STOCK_BROKER_URL", "redis://"))
app.conf.broker_connection_retry_on_startup = True


@app.task(name="stock.sync_turn")
def sync_turn(turn: dict[str, Any]) -> None:
    """Does nothing."""
