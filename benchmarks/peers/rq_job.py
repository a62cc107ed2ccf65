"""RQ: a process a job. ``python -m benchmarks.peers.rq_job`` is its worker."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import redis
from rq import Queue, Retry, Worker

from benchmarks import work


@cache
def queue() -> Queue:
    """The default queue."""
    return Queue(connection=redis.Redis.from_url(os.environ["BENCH_BROKER"]))


def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    work.write(turn)


def enqueue(turn: dict[str, Any]) -> None:
    """Into the default queue."""
    # By name: the worker is another program, whose __main__ this module is.
    # A job whose worker died is another's only if it may be tried again.
    name = "benchmarks.peers.rq_job.sync_turn"
    queue().enqueue(name, turn, result_ttl=0, retry=Retry(max=5))


if __name__ == "__main__":
    Worker([queue()], connection=queue().connection).work(logging_level=logging.WARNING)
