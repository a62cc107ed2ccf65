"""taskiq on a Redis stream."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from taskiq_redis import RedisStreamBroker

from benchmarks import work
from benchmarks.peers import loop

# What a dead worker had is given to another after so many ms. It reads from the stream's beginning,
# or it would not see what was sent before it first started.
broker = RedisStreamBroker(
    os.environ["BENCH_BROKER"],
    idle_timeout=15_000,
    consumer_id="0",
    # A worker that dies while it looks for what the dead had keeps the lock no longer than this.
    unacknowledged_lock_timeout=15.0,
)


@broker.task(task_name="sync_turn")
async def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    await work.write_async(turn)


@cache
def _start() -> None:
    loop.run(broker.startup())


def enqueue(turn: dict[str, Any]) -> None:
    """Into the stream."""
    _start()
    loop.run(sync_turn.kiq(turn))
