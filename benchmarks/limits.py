"""The least that any contender has to do, measured alone: what results are a share of.

Each is written as tightly as Python allows, without any library between it and the machine but
redis-py and :mod:`sqlite3`, which every contender that uses such a server uses too.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from benchmarks.placing import Placement, place
from benchmarks.sender import nearest_rank, turns
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey

#: Bytes of what is stored in Redis of a turn of 1 KB.
STORED = 1_500
#: Calls or turns that share a round trip.
TOGETHER = 50
_LPUSH = "return redis.call('LPUSH', KEYS[1], ARGV[1])"


def redis_seconds(
    count: int, *, script: bool, together: int = 1, placement: Placement | None = None
) -> float:
    """Of one LPUSH, or one EVALSHA of an LPUSH, from a client with one thread.

    Args:
        count: of calls.
        script: EVALSHA.
        together: calls in one round trip.
        placement: of client and server; ``None``: wherever the system puts them.
    """
    with EmbeddedValkey() as server, server.client() as client:
        if placement is None:
            return push_seconds(client, count, script=script, together=together)
        place(server.pid, placement.server)
        with placement.here():
            return push_seconds(client, count, script=script, together=together)


def push_seconds(client: Any, count: int, *, script: bool, together: int = 1) -> float:
    """Of one push by this client: see :func:`redis_seconds`. Nothing of them stays."""
    body = b"x" * STORED
    sha = client.script_load(_LPUSH) if script else ""

    def push(to: Any) -> None:
        if sha:
            to.evalsha(sha, 1, "list", body)
        else:
            to.lpush("list", body)

    push(client)  # which connects
    begin = time.perf_counter()
    for _ in range(count // together):
        if together == 1:
            push(client)
        else:
            pipe = client.pipeline(transaction=False)
            for _ in range(together):
                push(pipe)
            pipe.execute()
    taken = time.perf_counter() - begin
    client.delete("list")
    return taken / (count // together * together)


def pipelined_rate(count: int = 20_000) -> dict[str, float | None]:
    """EVALSHA a second, :data:`TOGETHER` a round trip."""
    return {"rate": 1 / redis_seconds(count, script=True, together=TOGETHER)}


class Insert:
    """Rows into SQLite, one a transaction, as safe against the end of the process as an outbox."""

    def __init__(self, size: int) -> None:
        self._body = b"x" * size

    def calls(self, count: int, pace: float = 0.0) -> list[float]:
        """Seconds of each, ``pace`` seconds between them."""
        took: list[float] = []
        with tempfile.TemporaryDirectory() as directory:
            database = sqlite3.connect(Path(directory, "rows.db"), isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
            for _ in range(count):
                begin = time.perf_counter()
                database.execute("INSERT INTO rows (body) VALUES (?)", (self._body,))
                took.append(time.perf_counter() - begin)
                if pace:
                    time.sleep(pace)
            database.close()
        return took

    def quantiles(
        self, shares: dict[str, float], count: int, pace: float, placement: Placement | None
    ) -> dict[str, float | None]:
        """Microseconds."""
        if placement is None:
            took = self.calls(count, pace)
        else:
            with placement.here():
                took = self.calls(count, pace)
        return {name: nearest_rank(took, share) * 1e6 for name, share in shares.items()}


def writer_seconds(
    sessions: int, count: int, *, slots: int, together: int = 1, latency: Any = 0.02
) -> float:
    """Until the stand-in has all turns of all sessions, from threads that do nothing else.

    Args:
        sessions: of which each is written by one call at a time.
        count: turns of each.
        slots: calls at a time.
        together: turns in one call, at most.
        latency: of the stand-in.
    """
    bodies: dict[str, list[bytes]] = {}
    for name, batch in _batches(sessions, count, together):
        bodies.setdefault(name, []).append(batch)
    with HonchoServer() as honcho:
        honcho.control(latency=latency)
        address = urlsplit(honcho.url).netloc
        free: SimpleQueue[http.client.HTTPConnection] = SimpleQueue()
        for _ in range(min(slots, sessions)):
            connection = http.client.HTTPConnection(address)
            connection.connect()
            free.put(connection)
        begin = time.perf_counter()
        with ThreadPoolExecutor(slots) as pool:
            # Turn by turn, as they came, would be another way: it takes as long.
            list(pool.map(partial(_write_all, free), bodies.items()))
        taken = time.perf_counter() - begin
        while not free.empty():
            free.get().close()
    return taken


def _batches(sessions: int, count: int, together: int) -> list[tuple[str, bytes]]:
    parts: dict[str, list[dict[str, Any]]] = {}
    for turn in turns(sessions, count, 1_000):
        parts.setdefault(turn["session"], []).extend(
            {
                "peer_id": message["peer"],
                "content": message["content"],
                "metadata": {"turn_id": turn["turn_id"], "part": part, "parts": 2},
            }
            for part, message in enumerate(turn["messages"])
        )
    step = 2 * together
    return [
        (session, json.dumps({"messages": messages[begin : begin + step]}).encode())
        for session, messages in parts.items()
        for begin in range(0, len(messages), step)
    ]


def _write_all(
    free: SimpleQueue[http.client.HTTPConnection], work: tuple[str, list[bytes]]
) -> None:
    session, bodies = work
    connection = free.get()
    for body in bodies:
        path = f"/v3/workspaces/bench/sessions/{session}/messages"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 300, answer.status
    free.put(connection)
