"""SAQ on Redis."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from saq import Queue

from benchmarks import work
from benchmarks.peers import loop

queue = Queue.from_url(os.environ["BENCH_BROKER"])


async def sync_turn(ctx: dict[str, Any], *, turn: dict[str, Any]) -> None:
    """Writes a turn."""
    await work.write_async(turn)


settings = {
    "queue": queue,
    "functions": [sync_turn],
    "concurrency": int(os.environ.get("BENCH_SLOTS", "32")),
    # Jobs that are past their timeout are looked for as often; by itself once a minute.
    "timers": {"sweep": 5},
}


@cache
def _start() -> None:
    loop.run(queue.connect())


def enqueue(turn: dict[str, Any]) -> None:
    """Into its list."""
    _start()
    # What a dead worker had is given to another after so many seconds, if it may be tried again.
    loop.run(queue.enqueue("sync_turn", turn=turn, ttl=-1, timeout=15, retries=5))
