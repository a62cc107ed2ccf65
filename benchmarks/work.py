"""What every contender's task does with a turn, so that they differ in the queue alone.

``BENCH_HONCHO``: base URL of the stand-in to write to; without it nothing is written anywhere.
``BENCH_RECORD``: file that gets a line for every turn, once it is written. A ``write`` of one line
to a file opened for appending is atomic, so any number of processes share it.
``BENCH_HTTP_TIME``: if set, the file beside it, with ``.http`` at its end, gets a line for every
request that a blocking client sends: seconds of CPU.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache
from typing import Any

import httpx

HONCHO = os.environ.get("BENCH_HONCHO", "")
#: The longest a call may take, in seconds: as Honcho's SDK has it.
TIMEOUT = 60.0


def write(turn: dict[str, Any]) -> None:
    """Write a turn, as a task of a blocking contender does."""
    if HONCHO:
        url, body = _call(turn)
        _client().post(url, json=body).raise_for_status()
    record(turn)


async def write_async(turn: dict[str, Any]) -> None:
    """Write a turn, as a coroutine does."""
    if HONCHO:
        url, body = _call(turn)
        client = _async_client(asyncio.get_running_loop())
        (await client.post(url, json=body)).raise_for_status()
    record(turn)


def record(turn: dict[str, Any]) -> None:
    """Say that a turn is written: its session, its place in it, and when."""
    line = f"{turn['session']} {turn['turn_id']} {time.monotonic():.6f}\n"
    os.write(_record(), line.encode())


@cache
def _record(end: str = "") -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    path = os.environ.get("BENCH_RECORD")
    return os.open(path + end if path else os.devnull, flags)


def _time_http() -> None:
    send = httpx.Client.send

    def timed(*args: Any, **kwargs: Any) -> httpx.Response:
        begin = time.thread_time()
        try:
            return send(*args, **kwargs)
        finally:
            os.write(_record(".http"), f"{time.thread_time() - begin:.7f}\n".encode())

    httpx.Client.send = timed  # type: ignore[method-assign]


if "BENCH_HTTP_TIME" in os.environ:
    _time_http()


def _call(turn: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The URL and the JSON body, as Honcho's SDK would send them."""
    url = f"{HONCHO}/v3/workspaces/{turn['workspace']}/sessions/{turn['session']}/messages"
    messages = [
        {
            "peer_id": message["peer"],
            "content": message["content"],
            "metadata": {"turn_id": turn["turn_id"], "part": part, "parts": len(turn["messages"])},
        }
        for part, message in enumerate(turn["messages"])
    ]
    return url, {"messages": messages}


@cache
def _client() -> httpx.Client:
    """One pooled client a process, made after any fork."""
    return httpx.Client(timeout=TIMEOUT, limits=httpx.Limits(max_connections=None))


@cache
def _async_client(loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=None))
