"""procrastinate on PostgreSQL; a session's turns share a lock, which keeps them in order."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector

from benchmarks import work

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_BROKER"]))


@app.task(name="sync_turn")
async def sync_turn(turn: dict[str, Any]) -> None:
    """Writes a turn."""
    await work.write_async(turn)


@app.periodic(cron="* * * * * */5")
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
    """Give what a dead worker had to another, as its documentation tells everybody to."""
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=15):
        await app.job_manager.retry_job(job)


@cache
def _open() -> None:
    """Connect, for calls that block."""
    app.open()


def enqueue(turn: dict[str, Any]) -> None:
    """Into its table."""
    _open()
    sync_turn.configure(lock=turn["session"]).defer(turn=turn)
