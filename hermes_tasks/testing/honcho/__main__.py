"""Run the stand-in: ``python -m hermes_tasks.testing.honcho --port 8000``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from hermes_tasks.testing.honcho.app import Connection, StandIn
from hermes_tasks.testing.honcho.server import READY

HOST = "127.0.0.1"


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; with ``--until-eof``, until standard input is closed."""
    parser = argparse.ArgumentParser(prog="python -m hermes_tasks.testing.honcho")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--api-key", help="let in nobody without this bearer token")
    parser.add_argument("--journal", type=Path, help="file that keeps what is stored")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin is closed")
    options = parser.parse_args(arguments)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(1024)
    except OSError as error:
        print(f"error: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        StandIn(options.api_key, options.journal).app(),
        http=Connection,
        lifespan="off",
        ws="none",
        log_level="error",
        access_log=False,
        proxy_headers=False,
    )
    if options.until_eof:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(f"{READY}http://{options.host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run([listener])
    return 0


def _end_with_stdin() -> None:
    """Whoever started us holds the other end: however it dies, we do not outlive it."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
