"""How often something took how long: counts by bucket, as Prometheus has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations by bucket.

    Attributes:
        bounds: upper bounds of the buckets, seconds, ascending; the last bucket has none.
        counts: in each bucket, not cumulative; one more than there are bounds.
        total: the sum of all durations, seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @classmethod
    def of(cls, name: str, bounds_ms: Sequence[int], counters: Mapping[str, float]) -> Self:
        """What scripts have counted: ``<name>:<bound in ms>``, ``<name>:inf`` and ``<name>_sum``.

        A bound that another version counted under goes into the next bucket of these.
        """
        counts = [0] * (len(bounds_ms) + 1)
        for field, count in counters.items():
            before, _, bound = field.rpartition(":")
            if before == name and (bound == "inf" or bound.isdecimal()):
                limit = float(bound)
                place = sum(known < limit for known in bounds_ms)
                counts[place] += int(count)
        total = float(counters.get(f"{name}_sum", 0)) / 1000
        return cls(tuple(bound / 1000 for bound in bounds_ms), tuple(counts), total)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)
