"""A deployment in a discrete-event simulation: sessions, workers, one gate, a backend.

Time is simulated, in milliseconds; the gate's rules are the real ones
(:class:`hermes_tasks.gate.rules.GateRules`). Modelled are the run queue, worker slots, batches,
what a writer does after each way a call can end, the keepers' timers, and Redis as one server that
does one script at a time. Every event takes O(log n).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.simulated_backends import Backend
from hermes_tasks.gate.rules import Ended, GateRules, Go, Release, State

#: What one script of the gate takes in Redis, ms: as measured, of the order of 0.05.
SCRIPT = 0.05

#: From a worker's free slot to its admit, and from an answer to its report, ms.
OVERHEAD = 1.0

#: The keeper's tick in each worker, ms. More than sixteen workers are simulated as sixteen.
TICK = 250.0

#: After a call in doubt nobody writes before its start + ceiling + this, ms.
DOUBT = 15_000.0


@dataclass(slots=True)
class Tally:
    """What was counted.

    Attributes:
        admissions: questions put to the gate.
        writes: calls that wrote something.
        ended: calls by size class and how they ended.
        cut: timeouts below the ceiling.
        opened: times at which the breaker opened from closed; ``false`` of them for no reason.
        late_calls: calls that started while the backend was down and the breaker not closed.
        served: writes of each session, and in ``first`` when each was served first.
        starts: when calls started, only if asked for.
        watched: (time, deadline, limit), only if asked for.
    """

    admissions: int = 0
    writes: int = 0
    cut: int = 0
    false: int = 0
    late_calls: int = 0
    ended: Counter[tuple[int, Ended]] = field(default_factory=Counter)
    opened: list[float] = field(default_factory=list)
    served: Counter[int] = field(default_factory=Counter)
    first: dict[int, float] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    watched: list[tuple[float, float, float]] = field(default_factory=list)

    def count(self, ended: Ended) -> int:
        """Calls that ended so."""
        return sum(number for (_, how), number in self.ended.items() if how is ended)

    @property
    def calls(self) -> int:
        return sum(self.ended.values())


class Deployment:
    """Workers that serve sessions through one gate.

    Args:
        rules: the gate.
        backend: what is called.
        workers: worker processes.
        slots: calls each can make at once.
        sizes: messages of a batch, drawn anew for each; ``None``: what is pending, at most 50.
        endless: a session that was served has more to write at once.
        note_starts: keep when each call started.
        dice: everything random.
    """

    def __init__(
        self,
        rules: GateRules,
        backend: Backend,
        *,
        workers: int = 4,
        slots: int = 8,
        sizes: Callable[[random.Random], int] | None = None,
        endless: bool = True,
        note_starts: bool = False,
        dice: random.Random,
    ) -> None:
        self.rules = rules
        self.backend = backend
        self.now = 0.0
        self.tally = Tally()
        self._random = dice
        self._note_starts = note_starts
        self._sizes = sizes
        self._endless = endless
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._redis_free = 0.0
        self._free = deque(worker for _ in range(slots) for worker in range(workers))
        self._ready: deque[int] = deque()
        self._pending: dict[int, int] = {}
        self._busy: set[int] = set()
        self._tries: dict[int, int] = {}
        self._doubt: set[int] = set()
        self._single: set[int] = set()
        ticks = min(workers, 16)
        for tick in range(ticks):
            self.at(TICK * (tick + self._random.random()) / ticks, self._tick)

    @property
    def events(self) -> int:
        """Things that happened so far, about."""
        return self._serial

    # -- driving -----------------------------------------------------------------------------

    def at(self, time: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do something at a time."""
        self._serial += 1
        heapq.heappush(self._events, (time, self._serial, what, arguments))

    def run(self, until: float, *, done: Callable[[Tally], bool] | None = None) -> None:
        """Let time pass until ``until`` ms, or until ``done`` says so."""
        events = self._events
        while events and events[0][0] <= until:
            if done is not None and done(self.tally):
                return
            self.now, _, what, arguments = heapq.heappop(events)
            what(*arguments)
        if done is None or not done(self.tally):
            self.now = until

    def watch(self, every: float, size_class: int = 4) -> None:
        """Note the deadline of a size class and the limit every so many ms."""
        deadline = self.rules.deadline(self.now, size_class)
        limit = self.rules.ramp.limit
        self.tally.watched.append((self.now, deadline, math.inf if limit is None else limit))
        self.at(self.now + every, self.watch, every, size_class)

    def arrive(self, session: int, messages: int = 1) -> None:
        """A session has messages to write."""
        self._pending[session] = self._pending.get(session, 0) + messages
        if session not in self._busy:
            self._busy.add(session)
            self._queue(session)

    @property
    def pending(self) -> int:
        """Sessions with something to write."""
        return len(self._pending)

    # -- the way of a session ----------------------------------------------------------------

    def _queue(self, session: int) -> None:
        self._ready.append(session)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._ready and self._free:
            worker = self._free.popleft()
            self.at(self._script() + OVERHEAD, self._admit, self._ready.popleft(), worker, False)

    def _script(self) -> float:
        """When Redis has run one more script."""
        self._redis_free = max(self.now, self._redis_free) + SCRIPT
        return self._redis_free

    def _admit(self, session: int, worker: int, followup: bool) -> None:
        rules, tally = self.rules, self.tally
        asks = session in self._doubt
        size = 0 if asks else self._size(session)
        self._serial += 1
        call = f"{worker}#{self._serial}"
        tally.admissions += 1
        answer = rules.admit(
            self.now, str(session), call, size, followup=followup, jitter=self._random.random()
        )
        if isinstance(answer, Go):
            if asks:
                self._doubt.discard(session)  # until it fails as well
            self.at(self.now + answer.delay, self._send, session, worker, call, size, answer)
        else:
            self._free.append(worker)
            self._dispatch()

    def _size(self, session: int) -> int:
        if session in self._single:
            self._single.discard(session)
            return 1
        if self._sizes is not None:
            return self._sizes(self._random)
        return min(self._pending[session], 50)

    def _send(self, session: int, worker: int, call: str, size: int, go: Go) -> None:
        answer = self.backend.call(self.now, size, worker)
        if self.rules.breaker.state is not State.CLOSED and self.backend.down(self.now):
            self.tally.late_calls += 1
        if self._note_starts:
            self.tally.starts.append(self.now)
        duration, ended, retry_after = answer.latency, answer.ended, answer.retry_after
        if duration > go.deadline:
            duration, ended, retry_after = go.deadline, Ended.TIMEOUT, -1.0
        self.at(
            self.now + duration + OVERHEAD,
            self._report, session, worker, call, size, go, ended, duration, retry_after,
        )  # fmt: skip

    def _report(
        self,
        session: int,
        worker: int,
        call: str,
        size: int,
        go: Go,
        ended: Ended,
        duration: float,
        retry_after: float,
    ) -> None:
        rules, tally = self.rules, self.tally
        was = rules.breaker.state
        released = rules.report(
            self.now, call, go.epoch, go.size_class, ended, duration, go.deadline,
            retry_after=retry_after, jitter=self._random.random(),
        )  # fmt: skip
        if was is State.CLOSED and rules.breaker.state is State.OPEN:
            tally.opened.append(self.now)
            tally.false += not self.backend.down(self.now)
        tally.ended[go.size_class, ended] += 1
        if ended is Ended.TIMEOUT and go.deadline < rules.policy.ceiling * 1000:
            tally.cut += 1
        self._after(session, worker, size, go, ended, duration)
        self._release(released)

    def _after(
        self, session: int, worker: int, size: int, go: Go, ended: Ended, duration: float
    ) -> None:
        """What a writer and the transport do with the session then."""
        if ended is Ended.OK and size == 0:
            self.at(self._script() + OVERHEAD, self._admit, session, worker, True)
            return
        self._free.append(worker)
        if ended is Ended.OK:
            self._written(session, size)
        elif ended is Ended.LIMITED:
            self._queue(session)  # costs no attempt: the pause holds it
        else:
            tries = self._tries[session] = self._tries.get(session, 0) + 1
            self._doubt.add(session)
            wait = min(1000.0 * 2 ** (tries - 1), 60_000.0) * (0.5 + self._random.random() / 2)
            if ended is Ended.TIMEOUT:
                wait = max(wait, self.rules.policy.ceiling * 1000 + DOUBT - duration)
            self.at(self.now + wait, self._queue, session)
        self._dispatch()

    def _written(self, session: int, size: int) -> None:
        tally = self.tally
        tally.writes += 1
        tally.served[session] += 1
        tally.first.setdefault(session, self.now)
        self._tries.pop(session, None)
        if self._endless:
            self._queue(session)
            return
        self._pending[session] -= size
        if self._pending[session] > 0:
            self._queue(session)
        else:
            del self._pending[session]
            self._busy.discard(session)

    # -- releasing ---------------------------------------------------------------------------

    def _tick(self) -> None:
        rules = self.rules
        if rules.held:
            self._release(rules.release(self.now, self._random.random()))
        self.at(self.now + TICK, self._tick)

    def _release(self, released: Release) -> None:
        for name in released.sessions:
            if name in self.rules.held:
                self.rules.resume(name)
                if released.probe:
                    self._single.add(int(name))
                self._ready.append(int(name))
        if released.sessions:
            self._dispatch()
