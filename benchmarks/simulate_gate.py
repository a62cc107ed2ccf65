"""``python -m benchmarks.simulate_gate [--seed N] [--quick]``: the gate's rules under trial.

A discrete-event simulation of deployments that use the rules of the gate
(:class:`hermes_tasks.gate.rules.GateRules`), which the scripts in Redis are tested against. Each
table answers a question; ``docs/explanation/gate.md`` says what was found. Seconds are simulated.
The same seed prints the same numbers, but for the speed and memory in the last table.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.simulated_backends import Backend, Limited, Overloadable, Service, Spans
from benchmarks.simulation import Deployment, Tally
from hermes_tasks.gate.policy import Policy
from hermes_tasks.gate.rules import (
    CLASSES,
    Breaker,
    Ended,
    GateRules,
    Ramp,
    Release,
    State,
)

SECOND = 1000.0
Sizes = Callable[[random.Random], int]


def three(dice: random.Random) -> int:
    """Batches of three messages."""
    return 3


def mixed(dice: random.Random) -> int:
    """Batches of all sizes."""
    return dice.choice((1, 2, 10, 50, 100))


def rarely_large(dice: random.Random) -> int:
    """Three batches of a hundred are large."""
    return 80 if dice.random() < 0.03 else 2


def step(start: float, ends: float, slow: float) -> Callable[[float], float]:
    """A latency of 0.2 s that is ``slow`` ms from ``start`` to ``ends``."""
    return lambda now: slow if start <= now < ends else 200.0


class Trial:
    """What all tables need: the seed, and how much of each regime to run."""

    def __init__(self, seed: int, *, quick: bool) -> None:
        self.seed = seed
        self.quick = quick

    def pick(self, full: float, quick: float) -> float:
        """A length for the full run, or for the quick one."""
        return quick if self.quick else full

    def service(self, **settings: Any) -> Service:
        return Service(**settings, dice=random.Random(self.seed))

    def deployment(
        self, rules: GateRules, backend: Backend, sessions: int, **settings: Any
    ) -> Deployment:
        """Four workers of eight slots unless told otherwise; every session is ready at 0."""
        settings.setdefault("sizes", three)
        found = Deployment(rules, backend, dice=random.Random(self.seed), **settings)
        for session in range(sessions):
            found.arrive(session)
        return found


class BareThree(GateRules):
    """The seed's breaker: three failures in a row, however many calls are in flight."""

    class _Breaker(Breaker):
        def trips(self, now: float, in_flight: int) -> bool:
            return super().trips(now, 0)

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.breaker = self._Breaker(policy)


class OneWindow(GateRules):
    """One window of latencies for calls of all sizes, as in the seed."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.windows = dict.fromkeys(CLASSES, self.windows[CLASSES[0]])


class NoRamp(GateRules):
    """After a recovery everybody calls at once."""

    class _Ramp(Ramp):
        def start(self, now: float, limit: float) -> None:
            """Set no limit."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.ramp = self._Ramp(policy)

    def release(self, now: float, jitter: float = 0.0) -> Release:
        first = super().release(now, jitter)
        if self.breaker.state is not State.CLOSED:
            return first
        for session in self.held:
            self.permits.add(session, now + self.policy.permit_seconds * SECOND)
        return Release(False, tuple(self.held))


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their heads; the first column to the left, numbers to the right."""
    cells = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(heads), *cells]) for at in range(len(heads))]
    print(f"\n{title}")
    for row in [list(heads), *cells]:
        line = "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"  {row[0]:{widths[0]}}  {line}", flush=True)


def share(part: float, whole: float) -> str:
    if not whole:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.{0 if percent >= 10 else 2}f} %"


def rate(run: Deployment, since: float = 0.0) -> str:
    """Writes a second since then."""
    return f"{run.tally.writes / (run.now - since) * SECOND:.1f}"


def opened(tally: Tally) -> bool:
    """The breaker opened."""
    return bool(tally.opened)


def wrote(number: int) -> Callable[[Tally], bool]:
    """That many calls wrote something."""
    return lambda tally: tally.writes >= number


def seconds(ms: float | None) -> str:
    return "-" if ms is None else f"{ms / SECOND:.1f}"


# -- the regimes -------------------------------------------------------------------------------


def latencies(trial: Trial) -> None:
    """Does the deadline follow, both ways, and does the breaker stay closed?"""
    rows: list[Sequence[object]] = []
    for name, slow in (
        ("steady 0.2 s", 0.2),
        ("to 12 s", 12.0),
        ("to 25 s", 25.0),
        ("to 40 s", 40),
    ):
        steps, back = 60 * SECOND, trial.pick(240, 90) * SECOND
        backend = trial.service(
            latency=step(steps, back, slow * SECOND),
            too_slow=[(steps, back)] if slow > 30 else (),
        )
        run = trial.deployment(GateRules(Policy()), backend, 300)
        run.watch(SECOND / 2)
        run.run(back + trial.pick(240, 60) * SECOND)
        up = [at for at, deadline, _ in run.tally.watched if at > steps and deadline > 29_999]
        down = [at for at, deadline, _ in run.tally.watched if at > back and deadline < 5_001]
        steady = slow < 1
        rows.append(
            (
                name,
                rate(run),
                len(run.tally.opened),
                run.tally.false,
                run.tally.cut,
                share(run.tally.cut, run.tally.calls),
                "-" if steady else seconds(up[0] - steps if up else None),
                "-" if steady else seconds(down[0] - back if down else None),
            )
        )
    run = trial.deployment(GateRules(Policy()), trial.service(tail=0.05), 300)
    run.watch(SECOND)
    run.run(trial.pick(600, 120) * SECOND)
    cut, calls = run.tally.cut, run.tally.calls
    rows.append(("5 % take 20 s", rate(run), len(run.tally.opened), run.tally.false, cut,
                 share(cut, calls), "-", "-"))  # fmt: skip
    table(
        "Latency 0.2 s, then a step and back; 4 workers x 8 slots, 300 sessions",
        (
            "",
            "writes/s",
            "opened",
            "falsely",
            "cut short",
            "of calls",
            "up after s",
            "back after s",
        ),
        rows,
    )


def sizes(trial: Trial) -> None:
    """Do large batches get through, when large calls take longer?"""
    rows: list[Sequence[object]] = []
    for name, rules in (("one window", OneWindow(Policy())), ("by class", GateRules(Policy()))):
        backend = trial.service(latency=200.0, per_message=100.0)
        run = trial.deployment(rules, backend, 300, sizes=rarely_large)
        run.run(trial.pick(600, 120) * SECOND)
        large = {how: number for (most, how), number in run.tally.ended.items() if most == 100}
        through = large.get(Ended.OK, 0)
        rows.append((name, sum(large.values()), through, share(through, sum(large.values())),
                     len(run.tally.opened)))  # fmt: skip
    table(
        "3 % of the calls have 80 messages and take 8 s, the others 0.4 s",
        ("deadline", "large calls", "got through", "", "opened"),
        rows,
    )


def errors(trial: Trial) -> None:
    """Does the breaker stay closed with errors, and open when the backend is dead?"""
    rows: list[Sequence[object]] = []
    for slots in (8, 32, 64, 200):
        for errors in (0.01, 0.05, 0.2):
            lasting = trial.pick(600 if slots < 64 else 19_200 / slots, 1600 / slots) * SECOND
            run = trial.deployment(
                GateRules(Policy()), trial.service(errors=errors), 3 * slots, workers=slots // 8
            )
            run.run(lasting)
            bare = trial.deployment(
                BareThree(Policy()), trial.service(errors=errors), 3 * slots, workers=slots // 8
            )
            bare.run(lasting, done=opened)
            rows.append(
                (
                    f"{100 * errors:.0f} % at {slots}",
                    run.tally.calls,
                    seconds(lasting),
                    run.tally.false,
                    seconds(bare.tally.opened[0] if bare.tally.opened else None),
                )
            )
    table(
        "Random errors at so many concurrent calls",
        ("", "calls", "in s", "opened falsely", "a bare 3 opens falsely after s"),
        rows,
    )
    rows = []
    for slots in (8, 32, 200):
        found: list[object] = [f"{slots} calls"]
        for hangs in (False, True):
            start = 20 * SECOND
            backend = trial.service(outages=[(start, 1e12)], hangs=hangs)
            run = trial.deployment(GateRules(Policy()), backend, 3 * slots, workers=slots // 8)
            run.run(start + 120 * SECOND, done=opened)
            found += [f"{(run.now - start) / SECOND:.2f}"]
        rows.append(found)
    table(
        "A dead backend: seconds until the breaker opens",
        ("", "refuses", "hangs (all calls at 5 s, then at the ceiling)"),
        rows,
    )


def due(first: float, ends: float, probe: float) -> int:
    """Probes that fit between opening and the end of an outage, without jitter."""
    count, wait, at = 0, probe, first + probe
    while at < ends:
        count, wait = count + 1, min(2 * wait, 600 * SECOND)
        at += wait
    return count


def outages(trial: Trial) -> None:
    """Are the calls of an outage its probes and nothing else, and is recovery prompt?"""
    rows: list[Sequence[object]] = []
    for name, lasting, probe, hangs in (
        ("30 s, refused, probe 2 s", 30, 2, False),
        ("10 min, refused, probe 60 s", 600, 60, False),
        ("10 min, hangs, probe 60 s", 600, 60, True),
        ("6 h, refused, probe 60 s", 21_600, 60, False),
    ):
        start, ends = 30 * SECOND, (30 + lasting) * SECOND
        backend = trial.service(outages=[(start, ends)], hangs=hangs)
        rules = GateRules(Policy(probe_seconds=probe))
        run = trial.deployment(rules, backend, 300)
        run.run(ends)
        first = run.tally.opened[0]
        busy, written = len(rules.calls), run.tally.writes
        fits = due(first, ends, probe * SECOND)
        # The probe that finds the backend back is due at most its longest interval later.
        run.run(ends + 700 * SECOND, done=wrote(written + 1))
        back = run.now
        run.run(back + 60 * SECOND)
        rows.append((name, seconds(first - start), run.tally.late_calls, fits, busy,
                     seconds(back - ends), f"{(run.tally.writes - written) / 60:.1f}"))  # fmt: skip
    table(
        "An outage; 4 workers x 8 slots, 300 sessions, 155 writes/s before",
        ("", "open after s", "calls while open", "probes due", "busy at its end",
         "first write s later", "writes/s in the minute then"),
        rows,
    )  # fmt: skip
    spans: Spans = [(at * SECOND, (at + 3) * SECOND) for at in range(30, 300, 6)]
    run = trial.deployment(GateRules(Policy(probe_seconds=2)), trial.service(outages=spans), 300)
    run.run(330 * SECOND)
    table(
        "Flapping: down for 3 s of every 6 s, for 270 s; probe 2 s",
        ("opened", "falsely", "calls while open", "never served", "writes/s"),
        [(f"{len(run.tally.opened)}", run.tally.false, run.tally.late_calls,
          300 - len(run.tally.first), rate(run))],
    )  # fmt: skip


def herd(trial: Trial) -> None:
    """Does a backlog drown the backend that has just come back?"""
    rows: list[Sequence[object]] = []
    sessions, per_second, down = int(trial.pick(3000, 1000)), 4, 30 * SECOND
    for name, kind in (("everybody at once", NoRamp), ("the ramp", GateRules)):
        backend = Overloadable(per_second, outages=[(0, down)])
        run = trial.deployment(
            kind(Policy(probe_seconds=2)), backend, sessions, workers=25, endless=False
        )
        run.watch(SECOND)
        limit = 3 * sessions / per_second * SECOND
        run.run(limit, done=wrote(sessions))
        ideal = down + run.tally.count(Ended.OK) / per_second * SECOND
        top = max(limit for at, _, limit in run.tally.watched)
        rows.append((name, len(run.tally.opened) - 1, run.tally.count(Ended.TIMEOUT),
                     sessions - len(run.tally.first), "-" if math.isinf(top) else f"{top:.0f}",
                     seconds(run.now), seconds(ideal)))  # fmt: skip
    table(
        f"{sessions:,} sessions, 200 slots, a backend of {per_second} calls/s after an outage",
        (
            "",
            "re-opened",
            "timeouts",
            "never served",
            "highest limit",
            "done after s",
            "its calls alone take s",
        ),
        rows,
    )


def strange_recoveries(trial: Trial) -> None:
    """Does the ramp find its way when what comes back is slow, uneven, or fails a little?"""
    rows: list[Sequence[object]] = []
    ends = 60 * SECOND
    outage = [(30 * SECOND, ends)]
    lasting = trial.pick(660, 180) * SECOND
    after = trial.pick(60, 20) * SECOND
    for name, workers, drawn, settings in (
        ("0.2 s", 4, three, {}),
        ("12 s", 4, three, {"latency": step(ends, 1e12, 12_000.0)}),
        ("20 s", 4, three, {"latency": step(ends, 1e12, 20_000.0)}),
        ("0.2 s a message", 4, mixed, {"per_message": 200.0}),
        ("1 % errors", 4, three, {"errors": 0.01}),
        ("5 % errors", 4, three, {"errors": 0.05}),
        ("20 % errors", 4, three, {"errors": 0.2}),
        ("5 % take 20 s", 4, three, {"tail": 0.05}),
        ("1 % errors", 25, three, {"errors": 0.01}),
    )[: 8 if trial.quick else 9]:
        results = []
        for outages in ((), outage):
            backend = trial.service(outages=outages, **settings)
            rules = GateRules(Policy(probe_seconds=2))
            run = trial.deployment(rules, backend, 25 * workers, workers=workers, sizes=drawn)
            run.run(lasting)
            before = run.tally.writes
            run.run(lasting + after)
            results.append((run.tally.writes - before) / after * SECOND)
        ideal, found = results
        limit = rules.ramp.limit or 0.0
        rows.append((f"{name}, {workers * 8} slots", f"{ideal:.1f}", f"{found:.1f}",
                     share(found, ideal), f"{limit:.1f}", run.tally.false))  # fmt: skip
    table(
        f"An outage of 30 s; writes/s when {seconds(lasting - ends)} s have passed since",
        ("what came back", "no outage", "after it", "", "limit", "opened falsely"),
        rows,
    )


def pace(trial: Trial) -> None:
    """Is the pace kept in every second, used, and shared?"""
    rows: list[Sequence[object]] = []
    for name, sessions, latency in (
        ("50 sessions, 0.2 s", 50, 200.0),
        ("1,000 sessions, 0.2 s", 1000, 200.0),
        ("50 sessions, 12 s: slots are short", 50, 12_000.0),
    ):
        lasting = trial.pick(600, 300)
        run = trial.deployment(
            GateRules(Policy(rate=5.0)),
            trial.service(latency=latency),
            sessions,
            note_starts=True,
        )
        run.run(lasting * SECOND)
        starts = sorted(run.tally.starts)
        busiest = max(bisect_left(starts, at + SECOND) - n for n, at in enumerate(starts))
        served = [run.tally.served[session] for session in range(sessions)]
        rows.append((name, f"{len(starts) / lasting:.2f}", busiest,
                     f"{run.tally.admissions / run.tally.writes:.2f}",
                     f"{min(served)} to {max(served)}", served.count(0)))  # fmt: skip
    table(
        "A pace of 5/s; 4 workers x 8 slots",
        ("", "calls/s", "busiest second", "admissions per write", "writes of a session",
         "never served"),
        rows,
    )  # fmt: skip


def limited(trial: Trial) -> None:
    """What becomes of a backend that answers 429?"""
    rows: list[Sequence[object]] = []
    for name, retry_after in (("without Retry-After", -1.0), ("Retry-After: 10", 10 * SECOND)):
        run = trial.deployment(GateRules(Policy()), Limited(10, retry_after=retry_after), 300)
        run.run(trial.pick(600, 120) * SECOND)
        refused = run.tally.count(Ended.LIMITED)
        rows.append((name, rate(run), refused, share(refused, run.tally.calls),
                     len(run.tally.opened), 300 - len(run.tally.first)))  # fmt: skip
    table(
        "A backend that refuses more than 10 calls in a second with 429; 32 slots, 300 sessions",
        ("", "writes/s", "429s", "of calls", "opened", "never served"),
        rows,
    )


def cut_off(trial: Trial) -> None:
    """What does one worker do to the others whose own network is broken?"""
    rows: list[Sequence[object]] = []
    for workers, sessions in ((2, 50), (4, 50), (4, 3000)):
        backend = trial.service(cut_off=frozenset({0}))
        run = trial.deployment(GateRules(Policy()), backend, sessions, workers=workers)
        run.run(trial.pick(600, 300) * SECOND)
        alone = trial.deployment(
            GateRules(Policy()), trial.service(), sessions, workers=workers - 1
        )
        alone.run(60 * SECOND)
        rows.append((f"1 of {workers}, {sessions:,} sessions", len(run.tally.opened),
                     seconds(run.tally.opened[0] if run.tally.opened else None),
                     rate(run), rate(alone)))  # fmt: skip
    table(
        "One worker whose own network is broken: its calls fail at once, the others' succeed",
        ("", "opened", "first after s", "writes/s", "writes/s without that worker"),
        rows,
    )


def scale(trial: Trial) -> None:
    """Do the rules and their data structures hold at sizes no machine here has?"""
    sessions, workers = (20_000, 100) if trial.quick else (1_000_000, 1000)
    per_second = 4 * workers
    arriving, down = 10 * workers, sessions / (10 * workers) * SECOND
    backend = Overloadable(per_second, latency=200.0, outages=[(0, down)])
    rules = GateRules(Policy(probe_seconds=2))
    run = trial.deployment(rules, backend, 0, workers=workers, sizes=None, endless=False)
    for session in range(sessions):
        run.at(session / arriving * SECOND, run.arrive, session)
    began = time.process_time()
    run.run(down)
    held = len(rules.held)
    run.watch(SECOND)
    run.run(20 * down, done=wrote(sessions))
    took = time.process_time() - began
    full = [at for at, _, limit in run.tally.watched if per_second * 0.2 <= limit < math.inf]
    table(
        f"{workers:,} workers x 8 slots, {sessions:,} sessions; an outage of {down / SECOND:.0f} s",
        ("held at its end", "re-opened", "calls while open", "never served", "done s after",
         "ideal s", "limit at capacity after s", "events/s of this machine", "MB"),
        [(f"{held:,}", len(run.tally.opened) - 1, run.tally.late_calls,
          sessions - len(run.tally.first), seconds(run.now - down), f"{sessions / per_second:.1f}",
          seconds(full[0] - down if full else None),
          int(run.events / took), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)],
    )  # fmt: skip


def main() -> int:
    """Run every regime."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_gate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--quick", action="store_true", help="shorter and smaller")
    arguments = parser.parse_args()
    trial = Trial(arguments.seed, quick=arguments.quick)
    for regime in (latencies, sizes, errors, outages, herd, strange_recoveries, pace, limited,
                   cut_off, scale):  # fmt: skip
        regime(trial)
    print(f"\nseed {arguments.seed}, {time.process_time():.0f} s of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
