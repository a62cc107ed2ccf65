"""procrastinate on PostgreSQL; a session's turns share a lock, which keeps them in order."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks import work

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_BROKER"]))


@app.task(name="sync_turn")
async def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    await work.write_async(turn)


@cache
def _open() -> None:
    """Connect, for calls that block."""
    app.open()


def enqueue(turn: dict[str, Any]) -> None:
    """Into its table."""
    _open()
    sync_turn.configure(lock=turn["session"]).defer(turn=turn)
