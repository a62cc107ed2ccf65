"""The order that users build on Celery from queues: a shard a queue, one slot a shard."""

from __future__ import annotations

import zlib
from typing import Any

from benchmarks.peers import SHARDS
from benchmarks.peers.stock_celery import app, sync_turn

__all__ = ["app", "enqueue"]


def enqueue(turn: dict[str, Any]) -> None:
    """Into the queue of the session's shard."""
    shard = zlib.crc32(turn["session"].encode()) % SHARDS
    sync_turn.apply_async((turn,), queue=f"shard-{shard}")
