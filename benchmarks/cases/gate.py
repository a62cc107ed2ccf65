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
from benchmarks.limits import redis_seconds
from benchmarks.placing import Placement, place, placements
from benchmarks.results import Bar, Figure, Series, Table
from hermes_tasks.gate import Ended, Gate, Go, Policy
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport import SessionStore

TITLE = "The gate"
ABOUT = """
Before each call to Honcho a worker asks the gate that all workers share, and tells it how the
call went. That is one round trip to Redis more than a call without it. The limit is as
many EVALSHA.
"""
CALLS = 1_000


def run(plan: Plan) -> Iterator[Table]:
    """Milliseconds of both ways to begin and end a call, p50 of a run."""
    for placement in placements():
        gated, plain = Series("hermes_tasks"), Series("hermes_tasks")
        one, two = Series("EVALSHA, as many"), Series("EVALSHA, as many")
        for _ in range(plan.runs):
            without, with_gate = measure(placement)
            plain.values.append(without)
            gated.values.append(with_gate)
            raw = 1000 * redis_seconds(CALLS, script=True, placement=placement)
            one.values.append(raw)
            two.values.append(2 * raw)
        added = (
            None if gated.median is None or plain.median is None else gated.median - plain.median
        )
        yield Table(
            f"gate-{placement.name.replace(' ', '-')}",
            f"The gate at one call, client and server on {placement.name}",
            [
                Figure("admit and report, p50", "ms", [gated], lower_is_better=True, limit=two),
                Figure("begin alone, p50", "ms", [plain], lower_is_better=True, limit=one),
            ],
            bars=[Bar(f"ms added by the gate, {placement.name}", added, at_most=0.3)],
        )


def measure(placement: Placement) -> tuple[float, float]:
    """Both ways in turn, so that noise meets them alike: without the gate, and with it."""
    plain: list[float] = []
    gated: list[float] = []
    with EmbeddedValkey() as server, placement.here():
        place(server.pid, placement.server)
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
