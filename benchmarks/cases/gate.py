"""What the gate adds to one call, on loopback: ``admit`` and ``report`` against a plain ``begin``.

A call without the gate records its intent (``begin``) too; ``admit`` does that as well, so what is
added is the rest of it, and ``report``. The class of the call is full of samples, as after an hour.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Iterator

from benchmarks.cases import Plan
from benchmarks.results import Bar, Series, Table
from hermes_tasks.gate import Ended, Gate, Go, Policy
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport import SessionStore

CALLS = 2_000


def run(plan: Plan) -> Iterator[Table]:
    """Milliseconds of both ways to begin and end a call, p50 of a run."""
    series = [Series("begin alone"), Series("admit and report")]
    for _ in range(plan.runs):
        for one, value in zip(series, measure(), strict=True):
            one.values.append(value)
    plain, gated = (one.median for one in series)
    assert plain is not None
    assert gated is not None
    yield Table(
        "gate",
        f"The gate at one call of {CALLS:,}, on loopback: p50",
        "ms",
        series,
        lower_is_better=True,
        bars=[Bar("added by the gate", gated - plain, at_most=0.3)],
    )


def measure() -> tuple[float, float]:
    """Both ways in turn, so that noise meets them alike: without the gate, and with it."""
    plain: list[float] = []
    gated: list[float] = []
    with EmbeddedValkey() as server:
        store = SessionStore(server.client())
        session, token = "default:bench:s", uuid.uuid4().hex
        number = store.push(session, "{}", id="turn").number
        ready = store.client.zscore(store.names.ready, session)
        claimed = store.claim(session, int(ready or number), token, "benchmark")
        assert claimed is not None, "the session was not ready"
        numbers = (claimed.items[0].number, claimed.items[-1].number)
        gate = Gate(store, Policy(), "default:bench")
        for _ in range(CALLS + gate.policy.window):
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
    return statistics.median(plain[warm:]), statistics.median(gated[warm:])
