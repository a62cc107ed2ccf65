"""``python -m benchmarks.sender MODULE``: sends turns as a gateway does, and times each call.

A process of its own, so that no contender inherits another's threads. It says ``ready`` when it has
sent the first turns, which connect and import. For each line that it then reads, the options of
:func:`turns` and of :func:`measure` in JSON, it sends turns and says how that went.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

#: Turns that are sent before it is ready, to sessions of their own.
WARM = 20


def turns(
    sessions: int = 1, count: int = 1, size: int = 1_000, name: str = "s"
) -> Iterator[dict[str, Any]]:
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


def nearest_rank(took: Sequence[float], share: float) -> float:
    """A quantile."""
    ordered = sorted(took)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def measure(
    module: Any, work: list[dict[str, Any]], pace: float, limit: float, join: bool
) -> dict[str, Any]:
    """Send turns.

    Args:
        module: of the contender.
        work: the turns.
        pace: seconds between two of them.
        limit: seconds after which a call that has not returned is given up.
        join: wait until all are on the server.

    Returns:
        ``seconds`` that all took, ``cpu`` seconds of this process, and what each call ``took``.
    """
    took: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()
    thread = threading.Thread(target=_send, args=(module, work, pace, took), daemon=True)
    thread.start()
    thread.join(limit)
    if join and not thread.is_alive() and hasattr(module, "join"):
        module.join()
    end, used = time.perf_counter(), time.process_time() - cpu
    # A call that has not returned has taken until now.
    calls = [seconds if seconds >= 0 else seconds + end for seconds in took]
    return {"seconds": end - begin, "cpu": used, "took": calls}


def _send(module: Any, work: list[dict[str, Any]], pace: float, took: list[float]) -> None:
    for turn in work:
        begin = time.perf_counter()
        took.append(-begin)
        module.enqueue(turn)
        took[-1] += time.perf_counter()
        if pace:
            time.sleep(pace)


def main() -> None:
    """Serve the lines that come."""
    module = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}")
    warm = list(turns(WARM, 1, name="warm"))
    measure(module, warm, 0.0, 60.0, True)
    print("ready", flush=True)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        how = {name: asked.pop(name) for name in ("pace", "limit", "join")}
        print(json.dumps(measure(module, list(turns(**asked)), **how)), flush=True)
    # A call that hangs, or a thread of a library's, does not keep it.
    os._exit(0)


if __name__ == "__main__":
    main()
