"""What the gate adds to one call, on loopback: ``admit`` and ``report`` against a plain ``begin``.

A call without the gate records its intent (``begin``) too; ``admit`` does that as well, so what is
added is the rest of it, and ``report``. The class of the call is full of samples, as after an hour.
"""

from __future__ import annotations

import statistics
import time
import uuid
from dataclasses import dataclass

from benchmarks.harness import empty_server
from hermes_tasks.gate import Ended, Gate, Go, Policy
from hermes_tasks.transport import SessionStore

CALLS = 2_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of one way to begin and end a call, sorted."""

    name: str
    values: list[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        return self.values[int(0.99 * len(self.values))]

    def __str__(self) -> str:
        return f"{self.p50:10.3f}  {self.p99:10.3f}"


def run(calls: int = CALLS) -> tuple[Cost, Cost]:
    """Both ways in turn, so that noise meets them alike: without the gate, and with it."""
    plain: list[float] = []
    gated: list[float] = []
    with empty_server() as server:
        store = SessionStore(server.client())
        session, token = "default:bench:s", uuid.uuid4().hex
        number = store.push(session, "{}", id="turn").number
        ready = store.client.zscore(store.names.ready, session)
        claimed = store.claim(session, int(ready or number), token, "benchmark")
        assert claimed is not None, "the session was not ready"
        numbers = (claimed.items[0].number, claimed.items[-1].number)
        gate = Gate(store, Policy(), "default:bench")
        for _ in range(calls + gate.policy.window):
            began = time.perf_counter()
            store.begin(session, token, *numbers)
            between = time.perf_counter()
            go = gate.admit(session, token, numbers, uuid.uuid4().hex, 2)
            assert isinstance(go, Go), "the gate of one caller was not open"
            gate.report(go, Ended.OK, 0.02)
            plain.append((between - began) * 1000)
            gated.append((time.perf_counter() - between) * 1000)
        store.client.close()
    warm = gate.policy.window
    return (
        Cost("begin alone", sorted(plain[warm:])),
        Cost("admit and report", sorted(gated[warm:])),
    )
