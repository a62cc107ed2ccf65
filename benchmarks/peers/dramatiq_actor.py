"""dramatiq on Redis."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import work

# What a dead worker had is given to another when it has been silent for so long, in ms.
broker = RedisBroker(url=os.environ["BENCH_BROKER"], heartbeat_timeout=15_000)
dramatiq.set_broker(broker)


@dramatiq.actor
def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into the default queue."""
    sync_turn.send(turn)
