"""What workers and gateways tell of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hermes_tasks.transport.reading import Counts

#: Seconds after its last report in which a worker is listed.
LISTED = 600.0
#: Seconds after its last report in which a gateway counts as at work.
AT_WORK = 60.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, as it last said.

    Attributes:
        name: of its node.
        consuming: it took turns, or worked on as many as it may. One whose consumer was cancelled,
            or stands still, does not.
        seen: seconds ago.
    """

    name: str
    consuming: bool
    seen: float

    @classmethod
    def all_of(cls, counts: Counts) -> tuple[Self, ...]:
        """The workers that were read, by name, without those not heard of for long."""
        workers = (
            cls(name, state == "1", age)
            for name, age, state in _reports(counts.workers, counts.now)
            if age <= LISTED
        )
        return tuple(sorted(workers, key=lambda worker: worker.name))


@dataclass(frozen=True, slots=True)
class Gateways:
    """What gateways told of their outboxes. One that has nothing to send tells nothing.

    Attributes:
        count: of those that reported within the last minute.
        rows: turns in outboxes that Redis has not surely got.
        dropped: turns that outboxes had to drop, since Redis was new.
    """

    count: int
    rows: int
    dropped: int

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """Of what was read."""
        reports = list(_reports(counts.gateways, counts.now))
        return cls(
            sum(age <= AT_WORK for _name, age, _rows in reports),
            sum(int(rows) for _name, _age, rows in reports),
            counts.counters.get("outbox_dropped", 0),
        )


def _reports(found: Mapping[str, str], now: int) -> list[tuple[str, float, str]]:
    """Name, age in seconds and text of each report; what is none is left out."""
    reports = []
    for name, report in found.items():
        at, _, text = report.partition(" ")
        if at.isdecimal() and text.isdecimal():
            reports.append((name, max(0.0, (now - int(at)) / 1000), text))
    return reports
