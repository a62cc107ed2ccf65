"""What workers and gateways tell of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.reading import Counts
from hermes_tasks.transport.scripts import script_of

#: Seconds after its last report in which a worker is listed.
LISTED = 600.0
#: Seconds after its last report in which a gateway counts as at work.
AT_WORK = 60.0
#: Seconds after its last report for which the rows of a gateway count.
ROWS_COUNT = 86_400.0


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
            cls(name, said == ["1"], age)
            for name, age, said in _reports(counts.workers, counts.now)
            if age <= LISTED
        )
        return tuple(sorted(workers, key=lambda worker: worker.name))


@dataclass(frozen=True, slots=True)
class Gateways:
    """What gateways told of their outboxes. One that has nothing to send tells nothing.

    Attributes:
        count: of those that reported within the last minute.
        rows: turns in outboxes that Redis has not accepted, as far as they said within a day.
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
            sum(age <= AT_WORK for _name, age, _said in reports),
            sum(int(said[0]) for _name, age, said in reports if age <= ROWS_COUNT),
            counts.counters.get("outbox_dropped", 0),
        )


def report_worker(store: SessionStore, name: str, consuming: bool | None) -> None:
    """Say of a worker whether it takes turns, or with ``None`` that it is no more.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses us.
    """
    said = "" if consuming is None else str(int(consuming))
    arguments = [name, said, int(LISTED * 1000)]
    script_of(__package__, "report")(store.client, [store.names.workers], arguments)


def _reports(found: Mapping[str, str], now: int) -> list[tuple[str, float, list[str]]]:
    """Name, age in seconds and numbers of each report; what is none is left out."""
    reports = []
    for name, report in found.items():
        at, *said = report.split() or [""]
        if said and all(number.isdecimal() for number in (at, *said)):
            reports.append((name, max(0.0, (now - int(at)) / 1000), said))
    return reports
