"""streaq on Redis streams."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

from streaq import Worker

from benchmarks import work
from benchmarks.peers import loop

worker: Worker[None] = Worker(
    redis_url=os.environ["BENCH_BROKER"],
    concurrency=int(os.environ.get("BENCH_SLOTS", "32")),
    # What a dead worker had is given to another after so many seconds.
    idle_timeout=15,
)


@worker.task(ttl=0)
async def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    await work.write_async(turn)


@cache
def _start() -> AsyncExitStack:
    stack = AsyncExitStack()
    loop.run(stack.enter_async_context(worker))
    return stack


async def _send(turn: dict[str, Any]) -> None:
    await sync_turn.enqueue(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into its stream."""
    _start()
    loop.run(_send(turn))
