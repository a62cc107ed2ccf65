"""Huey on Redis: what its consumer has taken is gone if it dies."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from benchmarks import work

# Without a health check of its own it polls, which would only be slower: this blocks.
huey = RedisHuey("bench", url=os.environ["BENCH_BROKER"], results=False, blocking=True)


@huey.task()
def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into its list."""
    sync_turn(turn)
