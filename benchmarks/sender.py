"""``python -m benchmarks.sender MODULE``: sends turns as a gateway does, and times each call.

A process of its own, so that no contender inherits another's threads. It says ``ready`` when it has
sent the first turns, which connect and import, and waits for a line before it sends the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

#: Turns that are sent before it is ready, to sessions of their own.
WARM = 20


def turns(sessions: int, count: int, size: int, name: str = "s") -> Iterator[dict[str, Any]]:
    """Turns of about ``size`` bytes of text in two messages, the sessions interleaved."""
    line = "All work and no play makes a queue a dull place to wait in. "
    text = (line * (size // 2 // len(line) + 1))[: size // 2]
    for index in range(count):
        for session in range(sessions):
            messages = [{"peer": peer, "content": text} for peer in ("user", "agent")]
            yield {
                "workspace": "bench",
                "session": f"{name}{session}",
                "turn_id": f"{name}{session}-{index}",
                "messages": messages,
            }


def send(module: Any, work: list[dict[str, Any]], pace: float, took: list[float]) -> None:
    """Send turns, ``pace`` seconds between them, and note how long each call took."""
    for turn in work:
        begin = time.perf_counter()
        took.append(-begin)
        module.enqueue(turn)
        took[-1] += time.perf_counter()
        if pace:
            time.sleep(pace)


def main() -> None:
    """Send, and print ``{"seconds": …, "cpu": …, "took": […]}``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sender")
    parser.add_argument("module")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--size", type=int, default=1_000)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds, then it gives up")
    options = parser.parse_args()
    module = importlib.import_module(f"benchmarks.peers.{options.module}")
    join = getattr(module, "join", None)
    send(module, list(turns(WARM, 1, options.size, "warm")), 0.0, [])
    if join:
        join()
    print("ready", flush=True)
    sys.stdin.readline()

    work = list(turns(options.sessions, options.turns, options.size))
    took: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()
    thread = threading.Thread(target=send, args=(module, work, options.pace, took), daemon=True)
    thread.start()
    thread.join(options.limit)
    if join and not thread.is_alive() and not options.pace:
        join()
    end, used = time.perf_counter(), time.process_time() - cpu
    # A call that has not returned has taken until now.
    calls = [seconds if seconds >= 0 else seconds + end for seconds in took]
    print(json.dumps({"seconds": end - begin, "cpu": used, "took": calls}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
