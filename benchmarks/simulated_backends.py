"""Backends for the simulation of the gate: slow, uneven, failing, limited, overloaded, dead."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hermes_tasks.gate.rules import Ended

#: How long it takes to learn that a connection is refused, ms.
REFUSED = 5.0

#: What a question takes at most, ms: it reads an index, whatever a write takes.
QUESTION = 200.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the backend does with a call if nobody cuts it: after ``latency`` ms it ended so."""

    latency: float
    ended: Ended = Ended.OK
    retry_after: float = -1.0


class Backend(Protocol):
    """A service under test."""

    def call(self, now: float, size: int, worker: int) -> Answer:
        """A call whose first byte leaves now, from this worker; ``size`` 0 is a question."""

    def down(self, now: float) -> bool:
        """Whether no call can succeed: to open is right then."""


Spans = Sequence[tuple[float, float]]


def within(now: float, spans: Spans) -> bool:
    return any(start <= now < end for start, end in spans)


@dataclass(slots=True)
class Service:
    """A service that does what its settings say, however many call it.

    Attributes:
        latency: ms of a write, spread by a fifth; a number, or by the time.
        per_message: ms more for each message.
        errors: share of calls that end in a 500 after 50 ms.
        tail: share of calls that take ``tail_ms``.
        outages: spans in which connections are refused, or with ``hangs`` nobody answers.
        too_slow: spans in which the latency is beyond every deadline: down as well.
        cut_off: workers whose own network is broken.
        dice: everything random.
    """

    latency: float | Callable[[float], float] = 200.0
    per_message: float = 0.0
    errors: float = 0.0
    tail: float = 0.0
    tail_ms: float = 20_000.0
    outages: Spans = ()
    hangs: bool = False
    too_slow: Spans = ()
    cut_off: frozenset[int] = frozenset()
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def call(self, now: float, size: int, worker: int) -> Answer:
        dice = self.dice
        if within(now, self.outages):
            return Answer(float("inf")) if self.hangs else Answer(REFUSED, Ended.FAILED)
        if worker in self.cut_off:
            return Answer(REFUSED, Ended.FAILED)
        luck = dice.random()
        if luck < self.errors:
            return Answer(50.0, Ended.FAILED)
        if luck < self.errors + self.tail:
            return Answer(self.tail_ms)
        latency = self.latency(now) if callable(self.latency) else self.latency
        if size == 0:
            latency = min(latency, QUESTION)
        return Answer((latency + self.per_message * size) * dice.lognormvariate(0, 0.2))

    def down(self, now: float) -> bool:
        return within(now, self.outages) or within(now, self.too_slow)


@dataclass(slots=True)
class Overloadable:
    """A service that does so many calls a second, one after the other: the rest waits in it.

    A call that its caller has given up is done all the same.
    """

    rate: float
    latency: float = 50.0
    outages: Spans = ()
    _free: float = 0.0

    def call(self, now: float, size: int, worker: int) -> Answer:
        if self.down(now):
            self._free = 0.0
            return Answer(REFUSED, Ended.FAILED)
        self._free = max(now, self._free) + 1000 / self.rate
        return Answer(self._free - now + self.latency)

    def down(self, now: float) -> bool:
        return within(now, self.outages)


@dataclass(slots=True)
class Limited:
    """A service that refuses more than ``rate`` calls in any second with a 429.

    Attributes:
        retry_after: what it asks for, ms; -1 for nothing.
    """

    rate: int
    latency: float = 200.0
    retry_after: float = -1.0
    _recent: deque[float] = field(default_factory=deque)

    def call(self, now: float, size: int, worker: int) -> Answer:
        while self._recent and self._recent[0] <= now - 1000:
            self._recent.popleft()
        if len(self._recent) >= self.rate:
            return Answer(20.0, Ended.LIMITED, self.retry_after)
        self._recent.append(now)
        return Answer(self.latency)

    def down(self, now: float) -> bool:
        return False
