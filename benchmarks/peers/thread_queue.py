"""A bounded queue in the caller's own process, and one thread: what a plug-in writes first."""

from __future__ import annotations

import queue
import threading
from functools import cache
from typing import Any

from benchmarks import work

BOUND = 1_000


@cache
def _queue() -> queue.Queue[dict[str, Any]]:
    turns: queue.Queue[dict[str, Any]] = queue.Queue(BOUND)
    threading.Thread(target=_drain, args=(turns,), daemon=True).start()
    return turns


def _drain(turns: queue.Queue[dict[str, Any]]) -> None:
    while True:
        work.write(turns.get())
        turns.task_done()


def enqueue(turn: dict[str, Any]) -> None:
    """At its end; the oldest is dropped when it is full."""
    turns = _queue()
    while True:
        try:
            return turns.put_nowait(turn)
        except queue.Full:
            turns.get_nowait()


def join() -> None:
    """Wait until all is written: with the process, what is queued ends."""
    _queue().join()
