"""Limits of the same machine: the least that any contender has to do."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.cases import Plan
from benchmarks.results import Table, interleaved
from benchmarks.sender import turns
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey

COUNT, PIPELINE, LATENCY, SLOTS = 5_000, 50, 0.02, 32
_BODY = b"x" * 1_500
"""About what a turn of 1 KB is in Redis."""


def run(plan: Plan) -> Iterator[Table]:
    """Operations a second."""
    figures = interleaved(
        plan.runs,
        {
            "LPUSH": lambda: {"rate": redis_rate(script=False, at_once=1)},
            f"LPUSH, {PIPELINE} a round trip": lambda: {
                "rate": redis_rate(script=False, at_once=PIPELINE)
            },
            "EVALSHA of an LPUSH": lambda: {"rate": redis_rate(script=True, at_once=1)},
            f"EVALSHA, {PIPELINE} a round trip": lambda: {
                "rate": redis_rate(script=True, at_once=PIPELINE)
            },
            "SQLite insert, WAL": lambda: {"rate": sqlite_rate()},
            "the writer alone, 32 threads": lambda: {"rate": writer_rate()},
        },
    )
    yield Table(
        "limits",
        "Limits of this machine: 1.5 KB each",
        "operations/s",
        figures["rate"],
        note="Client and server are processes of their own, free to run on any core.",
    )


def redis_rate(*, script: bool, at_once: int) -> float:
    """Of a client in this process, one thread."""
    with EmbeddedValkey() as server:
        client = server.client()
        sha = client.script_load("return redis.call('LPUSH', KEYS[1], ARGV[1])")
        begin = time.perf_counter()
        for _ in range(COUNT // at_once):
            pipe = client.pipeline(transaction=False)
            for _ in range(at_once):
                if script:
                    pipe.evalsha(sha, 1, "list", _BODY)
                else:
                    pipe.lpush("list", _BODY)
            pipe.execute()
        return COUNT / (time.perf_counter() - begin)


def sqlite_rate() -> float:
    """Of one row a transaction, as the outbox writes."""
    with tempfile.TemporaryDirectory() as directory:
        database = sqlite3.connect(Path(directory, "rows.db"), isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
        begin = time.perf_counter()
        for _ in range(COUNT):
            database.execute("INSERT INTO rows (body) VALUES (?)", (_BODY,))
        taken = time.perf_counter() - begin
        database.close()
        return COUNT / taken


def writer_rate() -> float:
    """Turns a second of the stand-in at 20 ms, from threads that do nothing else."""
    with HonchoServer() as honcho, httpx.Client() as client:
        honcho.control(latency=LATENCY)
        work = list(turns(200, 10, 1_000))

        def post(turn: dict[str, object]) -> None:
            url = f"{honcho.url}/v3/workspaces/bench/sessions/{turn['session']}/messages"
            messages = [
                {"peer_id": message["peer"], "content": message["content"]}
                for message in turn["messages"]  # type: ignore[attr-defined]
            ]
            client.post(url, json={"messages": messages}).raise_for_status()

        begin = time.perf_counter()
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(post, work))
        return len(work) / (time.perf_counter() - begin)
