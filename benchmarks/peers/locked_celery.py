"""The order that users build on Celery from locks: a Redis lock a session, inside the task.

It keeps two turns of a session from being written at once. It does not keep them in order.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis

from benchmarks import work
from benchmarks.peers.stock_celery import app


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(os.environ["BENCH_BROKER"])


@app.task(name="sync_turn_locked")
def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn while nobody else writes one of its session."""
    with _redis().lock(f"lock:{turn['session']}", timeout=60, sleep=0.01):
        work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into the one queue."""
    sync_turn.delay(turn)
