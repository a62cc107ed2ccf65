"""What the gate goes by: the settings that a deployment may change, and the numbers it may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from hermes_tasks.config import Settings


@dataclass(frozen=True, slots=True)
class Policy:
    """How the gate of one backend decides. Times are seconds.

    Every worker sends its own with each call, so a rolling deploy may mix two of them.

    Attributes:
        failures: in a row, until the breaker opens; or as many as calls are in flight, if more.
        probe_seconds: from opening to the first probe, jittered by a tenth.
        probe_longest: the most that interval grows to, doubling with each failed probe.
        floor: the shortest deadline of a call.
        ceiling: the longest deadline, and that of a probe.
        default: the deadline of a call that could not ask the gate.
        headroom: the deadline is so many times the p95 latency.
        window: latencies kept, of each size class.
        window_seconds: how long a latency counts.
        warmup: latencies without which a class has the ceiling.
        rate: calls a second, or ``None``.
        burst: calls that may start at once within the rate.
        permit_seconds: how long a released session has to come for its call.
        retry_after_cap: the longest pause that a backend may ask for.
        grace: after its deadline a call whose worker is silent counts as in flight so much longer.
    """

    failures: int = 3
    probe_seconds: float = 60.0
    probe_longest: float = 600.0
    floor: float = 5.0
    ceiling: float = 30.0
    default: float = 30.0
    headroom: float = 3.0
    window: int = 256
    window_seconds: float = 600.0
    warmup: int = 10
    rate: float | None = None
    burst: int = 1
    permit_seconds: float = 2.0
    retry_after_cap: float = 900.0
    grace: float = 5.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What the environment says; ``hermes-tasks config`` shows it."""
        return cls(
            failures=settings.breaker_failures,
            probe_seconds=settings.breaker_probe_seconds,
            floor=settings.timeout_floor,
            ceiling=settings.timeout_ceiling,
            default=settings.timeout_default,
            headroom=settings.timeout_headroom,
            window=settings.timeout_window,
            warmup=settings.timeout_warmup,
            rate=settings.rate_limit,
            burst=settings.rate_burst,
        )

    def script_argument(self) -> str:
        """The numbers as ``gate.lua`` reads them, in its order, times in milliseconds."""
        numbers = (
            self.failures,
            self.probe_seconds * 1000,
            self.probe_longest * 1000,
            self.floor * 1000,
            self.ceiling * 1000,
            self.headroom,
            self.window,
            self.window_seconds * 1000,
            self.warmup,
            self.rate or 0,
            self.burst,
            self.permit_seconds * 1000,
            self.retry_after_cap * 1000,
            self.grace * 1000,
        )
        return " ".join(map(repr, numbers))
