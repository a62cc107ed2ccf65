"""How a deployment was in the last hour: a sample every ten seconds, recorded by the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from hermes_tasks.gate import GateStatus, Policy, State
from hermes_tasks.ops.overview import Lag, Overview, read_overview
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.scripts import script_of

#: Seconds between two samples.
EVERY = 10.0
#: Samples kept: an hour.
KEPT = 360
#: Gates in a sample. Of more, those that hold calls back come first, then those with most calls.
GATES = 20


@dataclass(frozen=True, slots=True)
class GateSample:
    """A gate at one instant.

    Attributes:
        state: of its breaker.
        deadline: in force for the smallest calls, seconds.
        p95: of their latencies, seconds; ``None`` without any.
        calls: let through since it was new.
    """

    state: str
    deadline: float
    p95: float | None
    calls: int

    @classmethod
    def of(cls, gate: GateStatus) -> Self:
        """The gate as it is."""
        smallest = gate.classes[0]
        return cls(gate.state.value, smallest.deadline, smallest.p95, gate.counters["calls"])


@dataclass(frozen=True, slots=True)
class Sample:
    """A deployment at one instant.

    Attributes:
        at: of the Redis clock, seconds.
        accepted, written: turns since Redis was new.
        given_up: turns since then, for whatever reason.
        unsettled: turns, now.
        lag: of the sessions that have turns to write.
        gates: by name, :data:`GATES` at most.
        dropped: turns that outboxes had to drop, since Redis was new.
        without_key: times since then that a worker had no key for sealed turns.
    """

    at: float
    accepted: int
    written: int
    given_up: int
    unsettled: int
    lag: Lag | None
    gates: dict[str, GateSample]
    dropped: int = 0
    without_key: int = 0

    @classmethod
    def of(cls, overview: Overview) -> Self:
        """What is kept of an overview."""
        gates = sorted(
            overview.gates,
            key=lambda gate: (gate.state is State.CLOSED, -gate.counters["calls"], gate.name),
        )
        return cls(
            overview.now,
            overview.accepted,
            overview.written,
            sum(overview.given_up.values()),
            overview.unsettled,
            overview.lag,
            {gate.name: GateSample.of(gate) for gate in gates[:GATES]},
            overview.gateways.dropped,
            overview.counters.get("without_key", 0),
        )

    def as_json(self) -> str:
        """As Redis has it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """What :meth:`as_json` gave.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, OverflowError: it was another
                version's, or nobody's.
        """
        found: Mapping[str, Any] = json.loads(raw)
        return cls(
            float(found["at"]),
            int(found["accepted"]),
            int(found["written"]),
            int(found["given_up"]),
            int(found["unsettled"]),
            Lag(**found["lag"]) if found["lag"] else None,
            {name: GateSample(**gate) for name, gate in found["gates"].items()},
            int(found.get("dropped", 0)),
            int(found.get("without_key", 0)),
        )


def read_history(store: SessionStore) -> tuple[Sample, ...]:
    """The samples of the last hour, oldest first. Where nobody worked, some are missing.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses us.
    """
    kept: Any = store.client.lrange(store.names.history, 0, KEPT - 1)
    samples = []
    for raw in reversed(kept):
        try:
            samples.append(Sample.parse(raw))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            continue  # of another version
    if samples:
        samples = [one for one in samples if samples[-1].at - one.at <= KEPT * EVERY]
    return tuple(samples)


def record_history(store: SessionStore, policy: Policy) -> bool:
    """Record a sample, unless some worker did within the interval; whether one was due."""
    script = script_of(__package__, "history")
    keys = [store.names.history, store.names.meta]
    interval = int(EVERY * 1000)
    if not script(store.client, keys, [interval, KEPT, ""]):
        return False
    sample = Sample.of(read_overview(store, policy))
    return bool(script(store.client, keys, [interval, KEPT, sample.as_json()]))
