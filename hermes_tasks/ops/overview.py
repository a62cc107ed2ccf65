"""The whole deployment in numbers, at one instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hermes_tasks.gate import GateStatus, Policy, read_gates
from hermes_tasks.ops.reports import Gateways, WorkerStatus
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.histogram import Histogram
from hermes_tasks.transport.reading import Counts, given_up, read_counts, unsettled

#: Upper bounds of the buckets by which ``common.lua`` counts the ages of written messages, ms.
LAG_BOUNDS = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000),
)


@dataclass(frozen=True, slots=True)
class Lag:
    """How long sessions that have turns to write have waited, seconds: each one's oldest turn.

    Attributes:
        p50, p95, p99: so many percent of these sessions lag no longer, by nearest rank.
        longest: of all.
    """

    p50: float
    p95: float
    p99: float
    longest: float

    @classmethod
    def of(cls, counts: Counts) -> Self | None:
        """Of what was read; ``None`` if no session has turns to write."""
        return cls(*(lag / 1000 for lag in counts.lags)) if counts.lags else None


@dataclass(frozen=True, slots=True)
class Overview:
    """A deployment.

    Attributes:
        now: of the Redis clock, seconds.
        accepted: turns that Redis took, since it was new.
        written: turns written since then; ``found`` of them a question found written already, a
            duplicate avoided.
        duplicates: turns that were sent again and recognised.
        twice: turns that are written twice.
        given_up: turns given up, by reason. One that was retried counts again.
        counters: all counters, by the names that scripts give them.
        unsettled: turns accepted and neither written nor given up.
        backlog: of these, those that overflowed their session's queue.
        dead: dead letters.
        sessions: how many are ``ready``, ``leased``, ``sleeping``, ``held`` and ``paused``.
        lag: of the sessions that have turns to write; ``None`` if none has.
        lags: age of each turn when it was written.
        workers: that reported within the last ten minutes, by name.
        gateways: what they told of their outboxes.
        gates: one for each workspace of Honcho, by name.
    """

    now: float
    accepted: int
    written: int
    found: int
    duplicates: int
    twice: int
    given_up: dict[str, int]
    counters: dict[str, int]
    unsettled: int
    backlog: int
    dead: int
    sessions: dict[str, int]
    lag: Lag | None
    lags: Histogram
    workers: tuple[WorkerStatus, ...]
    gateways: Gateways
    gates: tuple[GateStatus, ...]


def read_overview(store: SessionStore, policy: Policy) -> Overview:
    """The whole deployment, in at most three round trips, whatever it holds.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses us.
    """
    counts, gates = read_counts(store), read_gates(store, policy)
    counters = counts.counters
    return Overview(
        now=counts.now / 1000,
        accepted=counters.get("accepted", 0),
        written=counters.get("written", 0),
        found=counters.get("found", 0),
        duplicates=counters.get("duplicate", 0),
        twice=counters.get("twice", 0),
        given_up=given_up(counters),
        counters=counters,
        unsettled=max(0, unsettled(counters)),
        backlog=max(0, counters.get("backlog", 0)),
        dead=counts.dead,
        sessions={
            "ready": counts.ready,
            "leased": counts.leased,
            "sleeping": counts.sleeping,
            "held": sum(gate.held for gate in gates),
            "paused": counts.paused,
        },
        lag=Lag.of(counts),
        lags=Histogram.of("lag", LAG_BOUNDS, counters),
        workers=WorkerStatus.all_of(counts),
        gateways=Gateways.of(counts),
        gates=tuple(gates),
    )
