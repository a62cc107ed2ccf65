"""What is to be done to a deployment, and when: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.history import Limits

RECOVERY = 4.0
"""Seconds that a worker needs to start; until then it is not hurt again."""

MEAN_GAP = 1.1
"""Seconds between the beginnings of two faults, on average."""


class Kind(StrEnum):
    """What can be done, first to what. The targets of the others are named in the plan."""

    KILL = "kill -9"
    KILL_CHILD = "kill -9 a pool process of"
    STOP = "SIGSTOP"
    RESTART = "restart"
    CLOCK = "move the wall clock of"
    CUT = "cut"
    DELAY = "delay"
    HOLE = "swallow everything on"
    FLUSH = "SCRIPT FLUSH on"
    POWER = "cut the power of"
    STALL = "stall calls of"
    LATE = "land a call too late on"
    AFTER = "store, then answer 502, on"
    FAIL = "fail calls of"
    DENY = "answer 401 on"
    PAUSE = "pause every second of the"
    SHUT = "open the gate of"


TROUBLES = (Kind.STALL, Kind.LATE, Kind.AFTER, Kind.FAIL, Kind.DENY)
"""What the stand-in is told to do."""

BY_HAND = (Kind.PAUSE, Kind.SHUT)
"""What an operator does, and undoes."""

HAND_SECONDS = 2.0
"""How long Redis is not hurt when somebody has undone something: it may forget its last second."""

REDIS, HONCHO, SESSIONS = "redis", "honcho", "sessions"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to be done.

    Attributes:
        at: seconds after the start.
        lasts: seconds until it is undone.
        target: a process, or a link ``worker>honcho``; ``*>redis`` is all links to it.
        value: seconds of a delay, stall, step of a clock or of lost writes; status of a failure;
            the first session that is paused.
        times: calls that it happens to.
    """

    at: float
    lasts: float
    kind: Kind
    target: str
    value: float = 0.0
    times: int = 0

    @property
    def over(self) -> float:
        """Seconds after the start when it is undone."""
        return self.at + self.lasts

    @property
    def backend(self) -> bool:
        """Whether it keeps workers from the service, or the service from answering well."""
        return HONCHO in self.target and self.kind not in (Kind.DELAY,)

    @property
    def forgets(self) -> bool:
        """Whether another Redis process answers afterwards."""
        return self.target == REDIS and self.kind in (Kind.KILL, Kind.RESTART, Kind.POWER)

    def __str__(self) -> str:
        value = f" ({self.value:g}" + (f", {self.times} calls)" if self.times else ")")
        return f"{self.kind} {self.target}" + (value if self.value else "")


WEIGHTS = {
    Kind.KILL: 5,
    Kind.KILL_CHILD: 2,
    Kind.STOP: 5,
    Kind.RESTART: 2,
    Kind.CLOCK: 2,
    Kind.CUT: 4,
    Kind.DELAY: 3,
    Kind.HOLE: 4,
    Kind.FLUSH: 1,
    Kind.POWER: 2,
    Kind.STALL: 3,
    Kind.LATE: 2,
    Kind.AFTER: 3,
    Kind.FAIL: 4,
    Kind.DENY: 1,
    Kind.PAUSE: 2,
    Kind.SHUT: 1,
}


def make_plan(
    seed: int, seconds: float, workers: Sequence[str], gateways: Sequence[str], limits: Limits
) -> list[Action]:
    """A plan of so many seconds, of which the last is calm.

    Nothing is hurt twice at once, and one worker is always left alone.
    """
    maker = _Maker(random.Random(seed), list(workers), list(gateways), limits)
    plan: list[Action] = []
    at = 1.0
    busy: list[tuple[str, float]] = []
    while True:
        at += maker.chance.expovariate(1 / MEAN_GAP)
        if at >= seconds - 1:
            return plan
        busy = [(name, until) for name, until in busy if until > at]
        action = maker.action(at, seconds, {name for name, _ in busy})
        if action is not None:
            plan.append(action)
            busy += [(name, until) for name, until in maker.occupied(action)]


class _Maker:
    """Draws actions. The order of its draws is what makes a seed mean the same again."""

    def __init__(
        self, chance: random.Random, workers: list[str], gateways: list[str], limits: Limits
    ) -> None:
        self.chance = chance
        self._workers = workers
        self._gateways = gateways
        self._limits = limits

    def action(self, at: float, seconds: float, busy: set[str]) -> Action | None:
        """One more action, or nothing where what was drawn cannot be done now."""
        kind = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        action = self._drawn(at, kind)
        if action.over > seconds or busy & {name for name, _ in self.occupied(action)}:
            return None
        hurt = {name for name in self._workers if name in busy}
        if action.target in self._workers and len(hurt) >= len(self._workers) - 1:
            return None
        return action

    def occupied(self, action: Action) -> Iterator[tuple[str, float]]:
        """What an action takes for itself, and until when."""
        until = action.over
        if action.kind in (Kind.KILL, Kind.RESTART) and action.target in self._workers:
            until += RECOVERY
        yield action.target, until
        if action.kind in BY_HAND:
            yield REDIS, until + HAND_SECONDS
        if ">" in action.target:
            # All links to a server, or one of them: not both.
            yield f"*>{action.target.partition('>')[2]}", until

    def _drawn(self, at: float, kind: Kind) -> Action:
        chance, lease = self.chance, self._limits.lease
        process = chance.choice([*self._workers * 2, *self._gateways, REDIS, HONCHO])
        worker = chance.choice(self._workers)
        link = self._link()
        if kind is Kind.KILL:
            return Action(at, chance.uniform(0.2, 2.0), kind, process)
        if kind is Kind.KILL_CHILD:
            return Action(at, 0.0, kind, worker)
        if kind is Kind.STOP:
            longest = (1.3 * lease, 3.0 * lease) if process in self._workers else (0.5, lease)
            return Action(at, chance.uniform(*longest), kind, process)
        if kind is Kind.RESTART:
            if process in (REDIS, HONCHO):
                process = worker
            return Action(at, chance.uniform(1.0, 3.0), kind, process)
        if kind is Kind.CLOCK:
            step = chance.choice([-86_400.0, -3_600.0, -5.0, 5.0, 3_600.0, 86_400.0])
            return Action(at, chance.uniform(2.0, 8.0), kind, worker, step)
        if kind is Kind.CUT:
            return Action(at, chance.uniform(0.0, 3.0), kind, link)
        if kind is Kind.DELAY:
            return Action(
                at, chance.uniform(1.0, 6.0), kind, link, round(chance.uniform(0.05, 0.4), 2)
            )
        if kind is Kind.HOLE:
            return Action(at, chance.uniform(0.5, 6.0), kind, link)
        if kind is Kind.FLUSH:
            return Action(at, 0.0, kind, REDIS)
        if kind is Kind.POWER:
            return Action(
                at, chance.uniform(0.1, 1.0), kind, REDIS, round(chance.uniform(0.1, 1.5), 2)
            )
        if kind is Kind.PAUSE:
            return Action(at, chance.uniform(0.5, 4.0), kind, SESSIONS, chance.choice([0, 1]))
        if kind is Kind.SHUT:
            return Action(at, chance.uniform(0.5, 3.0), kind, HONCHO)
        return self._trouble(at, kind)

    def _trouble(self, at: float, kind: Kind) -> Action:
        chance, limits = self.chance, self._limits
        lasts, times = chance.uniform(0.5, 4.0), chance.randint(1, 3)
        if kind is Kind.STALL:
            return Action(
                at, lasts, kind, HONCHO, round(chance.uniform(0.5, 2.0) * limits.ceiling, 1), times
            )
        if kind is Kind.LATE:
            late = limits.ceiling + limits.landing + chance.uniform(1.0, 3.0)
            return Action(at, lasts, kind, HONCHO, round(late, 1), 1)
        if kind is Kind.AFTER:
            return Action(at, lasts, kind, HONCHO, 502, times)
        if kind is Kind.FAIL:
            status = chance.choice([422, 429, 500, 500, 503])
            return Action(at, lasts, kind, HONCHO, status, times)
        return Action(at, min(lasts, 2.0), kind, HONCHO, 401)

    def _link(self) -> str:
        """One link or, now and then, all that lead to a server."""
        server = self.chance.choice([REDIS, HONCHO])
        ends = [*self._workers, *(self._gateways if server == REDIS else [])]
        return f"{self.chance.choice([*ends, '*'])}>{server}"


def describe(plan: Sequence[Action]) -> str:
    """A plan to be read, a line for each action."""
    return "\n".join(f"{a.at:7.2f} to {a.over:6.2f}  {a}" for a in plan)
