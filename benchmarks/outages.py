"""``python -m benchmarks.outages [--quick]``: bad days of a backend, met by 4 worker processes.

Three of them, each with what must hold of it: an outage of 30 s with 300 sessions active, 5 minutes
of 5 % random failures at 64 calls at a time, and latency that steps from 0.2 to 12 s and back.
``--quick`` is shorter in all of them: it shows that this runs, and proves less.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hermes_tasks.gate import State
from hermes_tasks.testing.deployment import Deployment, Look, probes_due
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until

WORKERS = 4
CALLS = 64
ERRORS = 0.05
FAST, SLOW = 0.2, 12.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How long everything takes, in seconds, and how much there is of it.

    Attributes:
        outage, probe, sessions: of the outage: its length, the probe interval, active sessions.
        errors, crowd: of the random failures: their length, sessions for each slot.
        time: by how much latencies and deadlines are scaled.
    """

    outage: float = 30.0
    probe: float = 2.0
    sessions: int = 300
    errors: float = 300.0
    crowd: int = 4
    time: float = 1.0


QUICK = Scale(outage=4.0, probe=1.0, sessions=100, errors=5.0, crowd=2, time=0.1)


@dataclass(slots=True)
class Table:
    """Prints what was measured, line by line, and remembers whether every bar was met."""

    met: bool = True

    def title(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def row(
        self,
        name: str,
        value: float | str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """A line; with a bar, also whether it was met."""
        shown = value if isinstance(value, str) else f"{value:,.10g}"
        bar = ""
        if isinstance(value, int | float) and (at_least is not None or at_most is not None):
            good = value >= at_least if at_least is not None else value <= (at_most or 0.0)
            self.met &= good
            said = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
            bar = f"  ({said}: {'met' if good else 'MISSED'})"
        print(f"  {name:52}{shown:>12}{bar}", flush=True)

    def audit(self, deployment: Deployment) -> None:
        """Every turn once and in order, and nothing left."""
        found = deployment.audit()
        self.row("turns sent", found.sent)
        self.row("lost", found.lost, at_most=0)
        self.row("written twice", found.twice, at_most=0)
        self.row("out of order", found.out_of_order, at_most=0)
        self.row("sessions left over", _left(deployment), at_most=0)


@dataclass(slots=True)
class Watch:
    """Looks at a deployment all the time, in a thread, until it is stopped."""

    deployment: Deployment
    interval: float = 0.02
    looks: list[Look] = field(default_factory=list)
    deadlines: list[tuple[float, float]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._over.wait(self.interval):
            self.looks.append(self.deployment.look())
            now = self.looks[-1].at
            self.deadlines.append((now, self.deployment.gate.status().classes[0].deadline))

    @contextmanager
    def __call__(self) -> Iterator[Watch]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


def _left(deployment: Deployment) -> int:
    """Sessions that are ready, leased, asleep or held once everything is settled."""
    give_up = time.monotonic() + 5.0
    while not (look := deployment.look()).is_quiet and time.monotonic() < give_up:
        time.sleep(0.05)
    return look.leases + look.ready + look.sleeping + look.held


@contextmanager
def deployment(**settings: Any) -> Iterator[Deployment]:
    """A broker, a stand-in, and no worker yet."""
    with (
        EmbeddedValkey() as server,
        HonchoServer() as honcho,
        Deployment(server, honcho, workspace="bench", **settings) as made,
    ):
        yield made


def outage(scale: Scale, table: Table) -> None:
    """The backend answers 503 to everything, for a while."""
    table.title(
        f"An outage of {scale.outage:g} s: {WORKERS} workers, {scale.sessions} sessions, "
        f"probes after {scale.probe:g} s"
    )
    with deployment(breaker_probe_seconds=scale.probe) as d:
        d.start(WORKERS)
        sessions = d.sessions(scale.sessions)
        d.send(sessions)
        d.wait_until_written(60.0)
        with Watch(d)() as watch:
            # Calls are on their way when the backend fails, and half of the turns come after that.
            d.send(sessions[::2])
            d.honcho.control(fail=503, times=-1, route="any")
            began = time.monotonic()
            d.send(sessions)
            wait_until(lambda: d.look().state is State.OPEN, 10.0, "the breaker to open")
            # Those still on the run queue are taken, and held, one by one.
            wait_until(lambda: _all_held(d.look()), 10.0, "every session to be held")
            settled = time.monotonic()
            probes, calls = d.probes(), d.calls()
            while time.monotonic() < began + scale.outage:
                d.send(sessions)
                time.sleep(min(5.0, scale.outage / 4))
            made = d.calls() - calls
            probed = d.probes() - probes
            opened = next(look.at for look in watch.looks if look.state is State.OPEN)
            allowed = probes_due(time.monotonic() - opened, scale.probe)
        d.honcho.control(reset=True)
        over, before = time.monotonic(), d.settled
        wait_until(lambda: d.settled > before, 700.0, "the breaker to close", interval=0.005)
        closed = time.monotonic()
        d.wait_until_written(300.0)
        drained = time.monotonic()
        looks = [look for look in watch.looks if look.at > settled]

        table.row("s until the breaker opened", round(opened - began, 2), at_most=2)
        table.row("s until no slot was busy", round(settled - began, 2))
        table.row("calls while open, less probes", made - probed, at_most=0)
        table.row("probes (at most what the schedule allows)", probed, at_most=allowed)
        table.row("most slots busy at once", max(look.leases for look in looks), at_most=1)
        # A probe that has failed leaves its slot a moment after the breaker has opened again.
        table.row("longest s that a slot was busy while it was open", _longest(looks), at_most=0.5)
        table.row("  looks", len(looks))
        table.row("s from the end of the outage to the next probe", round(closed - over, 2))
        table.row(
            "s from there until all turns were written", round(drained - closed, 2), at_most=15
        )
        table.row("times the breaker opened", d.gate.status().counters["opened"], at_most=1)
        table.audit(d)


def _all_held(look: Look) -> bool:
    return look.state is State.OPEN and not (look.leases or look.ready or look.sleeping)


def _longest(looks: list[Look]) -> float:
    """Seconds of the longest run of looks that found the breaker open, and a slot busy."""
    longest, since = 0.0, None
    for look in looks:
        if look.leases and look.state is State.OPEN:
            since = look.at if since is None else since
            longest = max(longest, look.at - since)
        else:
            since = None
    return round(longest, 3)


def errors(scale: Scale, table: Table) -> None:
    """One call in twenty fails, for a long time."""
    table.title(
        f"{ERRORS:.0%} random 500s for {scale.errors:g} s: "
        f"{WORKERS} workers, {CALLS} threads in all"
    )
    with deployment(batch_turns=1) as d:
        d.honcho.control(latency=1.0)
        d.start(WORKERS, "-P", "threads", "-c", str(CALLS // WORKERS))
        sessions = d.sessions(scale.crowd * CALLS)
        d.send(sessions)
        d.wait_until_written(120.0)
        d.honcho.control(failure_rate=ERRORS, failure_statuses=[500], seed=1)
        failed = d.honcho.stats()["statuses"].get("500", 0)
        calls = d.calls()
        most = 0
        began = time.monotonic()
        with Watch(d, interval=0.1)() as watch:
            while time.monotonic() < began + scale.errors:
                if d.size - d.settled < 2 * len(sessions):
                    d.send(sessions)
                most = max(most, d.honcho.stats()["in_flight"])
                time.sleep(0.2)
        seconds = time.monotonic() - began
        made, failed = d.calls() - calls, d.honcho.stats()["statuses"].get("500", 0) - failed
        d.honcho.control(failure_rate=0.0)
        d.wait_until_written(120.0)
        table.row("calls a second", round(made / seconds, 1))
        table.row("most calls at once", most, at_least=0.9 * CALLS)
        table.row("calls that failed", failed, at_least=1)
        table.row("times the breaker opened", d.gate.status().counters["opened"], at_most=0)
        table.row(
            "looks that found it open", sum(look.state is not State.CLOSED for look in watch.looks),
            at_most=0,
        )  # fmt: skip
        table.audit(d)


def latency(scale: Scale, table: Table) -> None:
    """Calls take much longer for a while, and then as before."""
    unit = scale.time
    table.title(
        f"Latency {FAST * unit:g} s, then {SLOW * unit:g} s, then {FAST * unit:g} s: "
        f"deadlines from {5 * unit:g} to {30 * unit:g} s, {WORKERS} workers, 32 threads in all"
    )
    with deployment(
        batch_turns=1, timeout_floor=5 * unit, timeout_ceiling=30 * unit, timeout_default=30 * unit
    ) as d:
        d.honcho.control(latency=FAST * unit)
        d.start(WORKERS, "-P", "threads", "-c", "8")
        sessions = d.sessions(64)
        d.send(sessions)

        def feed(until: Callable[[], bool], timeout: float) -> float:
            """Keep every slot busy until then; seconds that took, or infinity."""
            began = time.monotonic()
            while not until():
                if time.monotonic() - began > timeout:
                    return float("inf")
                if d.size - d.settled < len(sessions):
                    d.send(sessions)
                time.sleep(0.05)
            return time.monotonic() - began

        def status() -> Any:
            return d.gate.status().classes[0]

        floor, ceiling = 5 * unit, 30 * unit
        with Watch(d, interval=0.1)() as watch:
            warm = feed(lambda: status().samples >= 100 and status().deadline <= floor, 60.0)
            d.honcho.control(latency=SLOW * unit)
            up = feed(lambda: status().deadline >= ceiling, 10 * SLOW * unit)
            # Long enough that the slow calls, not only the cut ones, hold it there.
            p95 = feed(lambda: (status().p95 or 0) >= SLOW * unit, 20 * SLOW * unit)
            stays = feed(lambda: False, 2 * SLOW * unit) and status().deadline
            d.honcho.control(latency=FAST * unit)
            down = feed(lambda: status().deadline <= floor, 120.0)
        d.wait_until_written(120.0)
        table.row("s until the deadline is the floor", round(warm, 1), at_most=60)
        table.row("s from the step up to the ceiling's deadline", round(up, 1),
                  at_most=floor + 3.0)  # fmt: skip
        table.row("s from there until the p95 says so", round(p95, 1), at_most=20 * SLOW * unit)
        table.row("deadline after two more rounds, s", stays, at_least=ceiling)
        table.row("s from the step down to the floor's deadline", round(down, 1), at_most=60)
        table.row("times the breaker opened", d.gate.status().counters["opened"], at_most=0)
        table.row(
            "looks that found it open", sum(look.state is not State.CLOSED for look in watch.looks),
            at_most=0,
        )  # fmt: skip
        table.audit(d)


DAYS: dict[str, Callable[[Scale, Table], None]] = {
    "outage": outage,
    "errors": errors,
    "latency": latency,
}


def main() -> int:
    """Print the measurements; the exit status is 1 when one misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 45 s instead of 9 minutes")
    parser.add_argument("--only", choices=DAYS, action="append", help="these only")
    options = parser.parse_args()
    table = Table()
    for name in options.only or DAYS:
        DAYS[name](QUICK if options.quick else Scale(), table)
    print(f"\n{'every bar met' if table.met else 'a bar was MISSED'}")
    return 0 if table.met else 1


if __name__ == "__main__":
    sys.exit(main())
