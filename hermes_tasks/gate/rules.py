"""Every decision of the gate, in plain Python: the reference that the scripts are held against.

The gate lives in Redis, where its scripts decide for all workers at once. This module takes the
same decisions without Redis: a hypothesis test compares the two step by step, and
``benchmarks/simulate_gate.py`` runs these rules over backends and deployments that no test machine
has. :class:`GateRules` has one method for each script, and its parts have one concept each:

=====================  ============================================================================
:class:`LatencyWindow`  how long a call of one size may take
:class:`Breaker`        whether the backend is worth calling at all
:class:`Ramp`           how many calls may be in flight after a recovery
:class:`Pace`           how many calls may start in a second
:class:`Pause`          how long a 429 keeps every worker away
=====================  ============================================================================

Nothing here reads a clock or draws a random number. ``now`` is a time of the Redis clock in
milliseconds with a fraction, durations are milliseconds, and ``jitter`` is a number in [0, 1). The
:class:`~hermes_tasks.gate.policy.Policy` is in seconds, as its settings are.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hermes_tasks.gate.policy import Policy

#: Size classes by the most messages in a call. A call that writes nothing has size 0, class 0.
CLASSES = (4, 20, 100)

#: Fast calls in a row that take a class back from the ceiling after a timeout below it.
RAISED_CALLS = 30

#: Permits outstanding while no limit is in force: how many sessions a release moves at once.
RELEASE_WIDTH = 16

#: How far ahead the pace is handed out as permits, ms: a worker waits this long at most.
PACE_AHEAD = 500.0

#: Calls scatter on their way: this much more time between them keeps one too many out of a second.
PACE_SPACING = 1.04

#: The pause after a 429 without ``Retry-After``, ms.
PAUSE_DEFAULT = 1000.0

#: Below this limit each good call adds one, as in TCP's slow start; above it a whole round does.
SLOW_START = 8.0

#: What a good call adds at least: a large limit grows by this share in a round.
CLIMB = 1 / 32


class State(StrEnum):
    """The breaker's state: calls flow, none is made, or exactly one is."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Why(StrEnum):
    """Why a session is held."""

    OPEN = "open"
    MAINTENANCE = "maintenance"
    PROBING = "probing"
    PAUSE = "pause"
    QUEUE = "queue"
    LIMIT = "limit"
    PACE = "pace"


class Ended(StrEnum):
    """How a call ended.

    ``refused`` is a 4xx: the backend is well and the call was wrong. ``failed`` is a 5xx or a
    connection that broke, ``limited`` a 429, ``denied`` a 401 or 403, and ``unsent`` a call whose
    first byte never left.
    """

    OK = "ok"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    FAILED = "failed"
    LIMITED = "limited"
    DENIED = "denied"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Go:
    """The call may be made.

    Attributes:
        deadline: ms the call may take in all, counted from the end of ``delay``.
        delay: ms to wait before its first byte; only with a pace.
        epoch: to be handed back in the report.
        size_class: of :data:`CLASSES`, or 0 for a call that writes nothing; handed back as well.
        probe: it is the one call that decides whether the breaker closes.
        call: its id; handed back as well.
    """

    deadline: float
    delay: float
    epoch: int
    size_class: int
    probe: bool
    call: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The session is held: it stands at the tail of the queue, without lease and slot."""

    why: Why


@dataclass(frozen=True, slots=True)
class Release:
    """Sessions that may be queued for a worker again.

    Attributes:
        probe: the one session is the probe; its next batch is a batch of one.
        sessions: they hold permits; each is still in ``held`` until :meth:`GateRules.resume`.
    """

    probe: bool = False
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shut:
    """Calls are stopped by hand.

    Attributes:
        until: when that is over; infinite when somebody has to say so.
        lasts: ms that it was to last.
        why: for people.
    """

    until: float
    lasts: float
    why: str

    @property
    def text(self) -> str:
        """As Redis has it."""
        until = 0.0 if math.isinf(self.until) else self.until
        return f"{until:.17g} {self.lasts:.17g} {self.why}"


def class_of(size: int) -> int:
    """The size class of a call of ``size`` messages; 0 for a call that writes nothing."""
    if size <= 0:
        return 0
    return next((most for most in CLASSES if size <= most), CLASSES[-1])


def nearest_rank(ordered: Sequence[float], percent: int = 95) -> float:
    """The nearest-rank percentile of values in ascending order: the ``ceil(p·n)``-th of them.

    The definition of the NIST handbook's "nearest rank", without interpolation: the answer is
    always a value that was measured. Counted in whole numbers, so no rounding shifts the rank.
    """
    return ordered[(percent * len(ordered) + 99) // 100 - 1]


class Expiring:
    """Names that leave by themselves at their time, as a sorted set scored by expiry.

    Every operation takes O(log n), amortised.
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, name: str) -> bool:
        return name in self._ends

    def __iter__(self) -> Iterator[str]:
        return iter(self._ends)

    def add(self, name: str, ends: float) -> None:
        self._ends[name] = ends
        heapq.heappush(self._order, (ends, name))

    def remove(self, name: str) -> bool:
        """Whether it was there."""
        return self._ends.pop(name, None) is not None

    def clear(self) -> None:
        self._ends.clear()
        self._order.clear()

    def roll(self, now: float) -> None:
        """Let go of what ends at ``now`` or before."""
        while self._order and self._order[0][0] <= now:
            ends, name = heapq.heappop(self._order)
            if self._ends.get(name) == ends:
                del self._ends[name]


class LatencyWindow:
    """The latest latencies of one size class, and the deadline that follows from them.

    The seed's ``HonchoLatencyTracker``, with three additions: samples grow old; the deadline has a
    ceiling; and a timeout below the ceiling lifts it there, because a window of successes never
    sees what its own deadline cut off.

    Attributes:
        p95: nearest-rank, ms, as of the newest sample; 0 without samples.
        sampled_at: time of the newest sample.
        raised: fast calls still to come before the deadline leaves the ceiling; 0 when it has.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._samples: OrderedDict[tuple[float, str], float] = OrderedDict()
        self._sorted: list[float] = []
        self.p95 = 0.0
        self.sampled_at = -math.inf
        self.raised = 0

    def __len__(self) -> int:
        """Samples as of the newest one."""
        return len(self._samples)

    def observe(self, now: float, duration: float, call: str) -> None:
        """Take the latency of a successful call; a report that is repeated is one sample."""
        sample = (duration, call)
        if sample in self._samples:
            self._drop(sample)
        self._samples[sample] = now
        insort(self._sorted, duration)
        oldest = now - self._policy.window_seconds * 1000
        while len(self._samples) > self._policy.window:
            self._drop(next(iter(self._samples)))
        while self._samples and self._samples[next(iter(self._samples))] <= oldest:
            self._drop(next(iter(self._samples)))
        self.p95 = nearest_rank(self._sorted)
        self.sampled_at = now
        if self.raised:
            fast = duration < self._policy.floor * 1000
            self.raised = self.raised - 1 if fast else RAISED_CALLS

    def lift(self) -> None:
        """A call of this class, or of a smaller one, was cut below the ceiling."""
        self.raised = RAISED_CALLS

    def deadline(self, now: float) -> float:
        """``clamp(headroom · p95, floor, ceiling)``, ms.

        The ceiling while lifted there, and with too few samples or only old ones.
        """
        policy = self._policy
        old = self.sampled_at <= now - policy.window_seconds * 1000
        if self.raised or old or len(self) < policy.warmup:
            return policy.ceiling * 1000
        return min(max(policy.headroom * self.p95, policy.floor * 1000), policy.ceiling * 1000)

    def _drop(self, sample: tuple[float, str]) -> None:
        del self._samples[sample]
        del self._sorted[bisect_left(self._sorted, sample[0])]


class Breaker:
    """Closed, open, or probing; every change of state starts an epoch.

    Attributes:
        epoch: results of calls admitted in an earlier one move no state.
        since: when the state began.
        opened_at: while it is not closed, since when.
        failures: in a row, in this epoch.
        failed_by: the worker of all of them; empty if they are of several, or nobody knows.
        well_by: the worker of the newest call that went well, and ``well_at`` when it ended.
        denied: while open because the backend denies us, how; else ``None``.
        probe_at: when the next probe is due, while open.
        probe_wait: the interval that led to it, before jitter, ms.
        probe_session: whose call the probe is, while probing.
        probe_call: the probe's call, once it is admitted; ``None`` while it holds a permit only.
        probe_ends: when the probe is over, whatever became of it.
        shut: while open by hand.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.state = State.CLOSED
        self.epoch = 0
        self.since = 0.0
        self.opened_at: float | None = None
        self.failures = 0
        self.failed_by = ""
        self.well_by = ""
        self.well_at = 0.0
        self.denied: str | None = None
        self.probe_at = 0.0
        self.probe_wait = 0.0
        self.probe_session: str | None = None
        self.probe_call: str | None = None
        self.probe_ends = 0.0
        self.shut: Shut | None = None

    def overdue(self, now: float) -> bool:
        """Whether the probe's time is over."""
        return self.state is State.PROBING and self.probe_ends <= now

    def went_well(self, now: float, worker: str) -> None:
        """A call of a worker says that the backend is well."""
        self.failures = 0
        if worker:
            self.well_by, self.well_at = worker, now

    def failed(self, worker: str) -> None:
        """A call of a worker says that it is not."""
        self.failures += 1
        self.failed_by = worker if self.failures == 1 or worker == self.failed_by else ""

    def trips(self, now: float, in_flight: int) -> bool:
        """Whether the failures in a row are enough to open, with so many calls in flight.

        A bare 3 opens falsely within 0.1 s at 200 concurrent calls and 5 % errors. As many
        failures in a row as calls in flight mean that a whole round of calls failed. Those of one
        worker alone, while another has just been well, are that worker's own.
        """
        enough = self.failures >= max(self._policy.failures, in_flight)
        return self.state is State.CLOSED and enough and not self._is_own(now, self.failed_by)

    def trips_denied(self, now: float, worker: str) -> bool:
        """Whether the denial of one call is enough: the key is wrong, and so is every other call.

        Unless it is that worker's own, whose key is older than that of another.
        """
        return self.state is State.CLOSED and not self._is_own(now, worker)

    def open(self, now: float, jitter: float, denied: str | None = None) -> None:
        """Make no calls; the first probe is due after the interval, or twice the last one's.

        Args:
            denied: how the backend denied the call, which costs it nothing: the interval does not
                double, because somebody waits to see that the new key is good.
        """
        longest = max(self._policy.probe_longest, self._policy.probe_seconds) * 1000
        if self.state is State.PROBING and denied is None:
            self.probe_wait = min(2 * self.probe_wait, longest)
        else:
            self.probe_wait = self._policy.probe_seconds * 1000
        self._enter(State.OPEN, now)
        self.denied = denied
        self.probe_at = now + self.probe_wait * (0.9 + 0.2 * jitter)

    def shut_down(self, now: float, lasts: float, why: str) -> None:
        """Make no calls, and no probe, for ``lasts`` ms (0: until somebody closes)."""
        self._enter(State.OPEN, now)
        self.denied = None
        self.probe_at = now
        self.probe_wait = self._policy.probe_seconds * 1000
        self.shut = Shut(now + lasts if lasts else math.inf, lasts, why)

    def is_shut(self, now: float) -> bool:
        return self.shut is not None and self.shut.until > now

    def roll(self, now: float) -> None:
        """A clock that stepped back must not make a maintenance longer than it was to be."""
        shut = self.shut
        if shut is not None and shut.lasts and shut.until > now + shut.lasts:
            self.shut = replace(shut, until=now + shut.lasts)

    def pass_on(self, now: float) -> None:
        """The probe was never sent: the next in line is the probe, at once."""
        self._enter(State.OPEN, now)
        self.probe_at = now

    def probe(self, now: float, session: str) -> None:
        """One session may call, within the life of its permit."""
        self._enter(State.PROBING, now)
        self.probe_session = session
        self.probe_ends = now + self._policy.permit_seconds * 1000

    def close(self, now: float) -> None:
        """The backend answered the probe."""
        self._enter(State.CLOSED, now)
        self.denied = None

    def _is_own(self, now: float, worker: str) -> bool:
        """Whether what a worker met says nothing of the backend: another has just been well."""
        return (
            bool(worker)
            and bool(self.well_by)
            and self.well_by != worker
            and self.well_at > now - self._policy.ceiling * 1000
        )

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self.epoch += 1
        self.since = now
        if state is State.CLOSED:
            self.opened_at = None
        elif self.opened_at is None:
            self.opened_at = now
        self.failures = 0
        self.probe_session = None
        self.probe_call = None
        self.probe_ends = 0.0
        self.shut = None


class Ramp:
    """The limit on calls in flight after a recovery, by what calls come to at it.

    Congestion control. A slow start below :data:`SLOW_START` (RFC 5681); above it a climb by a
    share, so that a large deployment gets back as soon as a small one (Scalable TCP, Kelly 2003).
    Once per round trouble cuts by half of its share of the calls (DCTCP, RFC 8257): half of the
    limit when all is bad, a fortieth at 5 % errors, which would keep a limit that is halved at each
    of them near six. A limit that is not in use does not grow (RFC 7661).

    Slow is what takes longer than a few times the latency at a limit of one, for calls of that
    size: then nobody else was there, and the rest is what this deployment adds to it. A fixed
    threshold takes a backend that needs 12 s for a drowning one, and never lets more than one call
    through.

    Attributes:
        limit: ``None`` until the first recovery, or the first 429.
        cut_at: when it was last cut; calls that started before say nothing about the new limit.
        trouble: the bad calls' share of the last ones, about as many as the limit.
        slow: by size class, ms from which a call is slow. A class that is not known has the
            ceiling: its calls are bad when they are cut there.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.limit: float | None = None
        self.cut_at = 0.0
        self.trouble = 0.0
        self.slow: dict[int, float] = {}

    @property
    def most(self) -> int | None:
        """Calls that may be in flight at once."""
        return None if self.limit is None else math.floor(self.limit)

    def start(self, now: float, limit: float) -> None:
        self.limit = max(1.0, limit)
        self.cut_at = now
        self.trouble = 0.0
        self.slow.clear()

    def measure(self, size_class: int, duration: float) -> None:
        """A call succeeded: when it was the only one, its class is slow from a few times that."""
        if self.limit is not None and self.limit < 2:
            policy = self._policy
            slow = max(policy.headroom * duration, policy.floor * 1000)
            self.slow[size_class] = min(slow, policy.ceiling * 1000)

    def is_slow(self, size_class: int, duration: float) -> bool:
        return duration >= self.slow.get(size_class, self._policy.ceiling * 1000)

    def ended(
        self, now: float, started: float, in_flight: int, *, bad: bool, told: bool = False
    ) -> None:
        """A call ended while so many, itself included, were in flight.

        Args:
            told: the backend said that these are too many, so no share of them needs counting.
        """
        if self.limit is None:
            return
        self.trouble += (bad - self.trouble) / max(2.0, self.limit)
        if bad:
            if started > self.cut_at:
                self.limit = max(1.0, self.limit * (0.5 if told else 1 - self.trouble / 2))
                self.cut_at = now
        elif 2 * in_flight >= self.limit:
            self.limit += 1.0 if self.limit < SLOW_START else max(1 / self.limit, CLIMB)


class Pace:
    """Calls that may start in a second: the generic cell rate algorithm (ITU-T I.371).

    Attributes:
        tat: theoretical arrival time of the next call.
    """

    def __init__(self, policy: Policy) -> None:
        self.interval = None if policy.rate is None else 1000 / policy.rate * PACE_SPACING
        self._burst = policy.burst
        self.tat = 0.0

    def wait(self, now: float) -> float:
        """Ms until the next call may start."""
        if self.interval is None:
            return 0.0
        return max(0.0, self.tat - (self._burst - 1) * self.interval - now)

    def reserve(self, now: float) -> float:
        """Take the next place; ms until then."""
        wait = self.wait(now)
        if self.interval is not None:
            self.tat = max(self.tat, now) + self.interval
        return wait

    def places(self, now: float) -> int | None:
        """Calls that may start within the next :data:`PACE_AHEAD` ms; ``None`` without a pace."""
        if self.interval is None:
            return None
        ahead = now + PACE_AHEAD - max(self.tat, now)
        return max(0, math.floor(ahead / self.interval) + self._burst)


class Pause:
    """What a 429 asked for: no call of anybody until then.

    Attributes:
        until: 0 when nobody asked.
    """

    def __init__(self, policy: Policy) -> None:
        self._cap = policy.retry_after_cap * 1000
        self.until = 0.0

    def ask(self, now: float, retry_after: float, jitter: float) -> None:
        """Hold for ``retry_after`` ms (none or 0: a second), never shorter than already asked.

        A tenth more at random, so that several deployments do not come back in one instant; the
        cap holds for the sum.
        """
        wait = min(retry_after if retry_after > 0 else PAUSE_DEFAULT, self._cap)
        self.until = max(self.until, now + min(wait * (1 + 0.1 * jitter), self._cap))


class GateRules:
    """The gate of one backend and workspace: one method for each script.

    ``admit``, ``report`` and ``release`` first let go of what time has ended.

    Attributes:
        held: names of held sessions, oldest first; the values say nothing.
        calls: in flight, by call id; a dead worker's call leaves by itself.
        permits: by session: it may call though others wait.
        counters: ``calls``, ``held``, ``opened``, ``probes``, ``denied``, ``bypassed``, ``late``.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.breaker = Breaker(policy)
        self.ramp = Ramp(policy)
        self.pace = Pace(policy)
        self.pause = Pause(policy)
        self.windows = {most: LatencyWindow(policy) for most in CLASSES}
        self.held: OrderedDict[str, None] = OrderedDict()
        self.calls = Expiring()
        self.permits = Expiring()
        self.counters: Counter[str] = Counter()

    def deadline(self, now: float, size_class: int) -> float:
        """Ms a call of this class may take.

        A call that writes nothing has no window of its own, so it has the ceiling: with a shorter
        deadline nothing would ever lift it.
        """
        if size_class == 0:
            return self.policy.ceiling * 1000
        return self.windows[size_class].deadline(now)

    def admit(
        self,
        now: float,
        session: str,
        call: str,
        size: int,
        *,
        followup: bool = False,
        jitter: float = 0.0,
        bypassed: int = 0,
    ) -> Go | Hold:
        """Decide about a call that is ready to be sent.

        Args:
            size: messages it writes; 0 for a call that writes nothing.
            followup: an earlier call under the same lease was admitted (or this one, and the answer
                was lost). Its session need not queue a second time, and keeping it in its slot
                costs nobody a call: it is the one that may go beyond the ramp's limit.
            bypassed: calls that this worker made meanwhile without asking.
        """
        self.roll(now, jitter)
        self.counters["bypassed"] += bypassed
        permit = self.permits.remove(session)
        match self.breaker.state:
            case State.OPEN:
                if self.held or not self._probe_due(now):
                    shut = self.breaker.is_shut(now)
                    return self._hold(session, call, Why.MAINTENANCE if shut else Why.OPEN)
                self._probe(now, session)
            case State.PROBING:
                if session != self.breaker.probe_session or not (permit or followup):
                    return self._hold(session, call, Why.PROBING)
                if self.pause.until > now:
                    return self._hold(session, call, Why.PAUSE)
            case State.CLOSED:
                why = self._why_not(now, through=permit or followup)
                if why is not None:
                    return self._hold(session, call, why)
        return self._go(now, session, call, size)

    def report(
        self,
        now: float,
        call: str,
        epoch: int,
        size_class: int,
        ended: Ended,
        duration: float,
        deadline: float,
        *,
        retry_after: float = -1.0,
        why: str = "",
        jitter: float = 0.0,
    ) -> Release:
        """Take in how a call ended; see which sessions may come now.

        Args:
            size_class: 0 for a call whose duration is no sample.
            duration: ms it took; NaN and a negative number say nothing.
            deadline: ms it had.
            retry_after: ms that a 429 asked for; -1 for none.
            why: how the backend denied the call, for people.
        """
        self.roll(now, jitter)
        known = self.calls.remove(call)
        self._learn(now, call, size_class, ended, duration, deadline)
        if not known or epoch != self.breaker.epoch:
            # Of an older epoch, beyond its time, or a report that is repeated.
            self.counters["late"] += 1
        elif ended is Ended.UNSENT:
            if call == self.breaker.probe_call:
                self._leave(self.breaker.pass_on, now)
        else:
            self._move(now, call, size_class, ended, duration, deadline, retry_after, why, jitter)
        return self.release(now, jitter)

    def release(self, now: float, jitter: float = 0.0) -> Release:
        """Grant permits to the oldest held sessions, as many as may call now.

        Sessions that have a permit and are still in ``held`` are named again: whoever was to
        resume them may have died.
        """
        self.roll(now, jitter)
        if self.breaker.state is State.OPEN:
            if not self.held or not self._probe_due(now):
                return Release()
            session = next(iter(self.held))
            self._probe(now, session)
            self.permits.add(session, self.breaker.probe_ends)
            return Release(True, (session,))
        if self.breaker.state is State.PROBING:
            waiting = [name for name in self.permits if name in self.held]
            return Release(True, tuple(waiting)) if waiting else Release()
        if self.pause.until > now:
            return Release()
        room = self._room(now)
        sessions = []
        # Permits are granted from the left, so the first name without one ends the walk: it costs
        # what it releases, however many are held.
        for session in self.held:
            if session not in self.permits:
                if room == 0:
                    break
                room -= 1
                self.permits.add(session, now + self.policy.permit_seconds * 1000)
            sessions.append(session)
        return Release(False, tuple(sessions))

    def resume(self, session: str) -> None:
        """A released session is queued for a worker."""
        self.held.pop(session, None)

    def stay_away(self, now: float, session: str) -> None:
        """A released session is not queued, because it is paused: its permit is given back."""
        self.held.pop(session, None)
        self.permits.remove(session)
        breaker = self.breaker
        if breaker.probe_session == session and breaker.probe_call is None:
            self._leave(breaker.pass_on, now)

    def open(self, now: float, lasts: float, why: str, jitter: float = 0.0) -> None:
        """Somebody stops all calls, for ``lasts`` ms or, with 0, until :meth:`close`."""
        self.roll(now, jitter)
        self.breaker.shut_down(now, lasts, why)
        self.permits.clear()

    def close(self, now: float, jitter: float = 0.0) -> Release:
        """Somebody lets calls be made again."""
        self.roll(now, jitter)
        if self.breaker.state is not State.CLOSED:
            self._leave(self.breaker.close, now)
            self.ramp.start(now, 1.0)
        return self.release(now, jitter)

    def reset(self, now: float, jitter: float = 0.0) -> Release:
        """Somebody wants all to be forgotten but counters, sessions held and calls in flight."""
        self.roll(now, jitter)
        epoch = self.breaker.epoch
        self.breaker = Breaker(self.policy)
        self.breaker.epoch = epoch
        self._leave(self.breaker.close, now)
        self.ramp, self.pace = Ramp(self.policy), Pace(self.policy)
        self.pause = Pause(self.policy)
        self.windows = {most: LatencyWindow(self.policy) for most in CLASSES}
        return self.release(now, jitter)

    def roll(self, now: float, jitter: float = 0.0) -> None:
        """Let go of what time has ended: permits, calls, and a probe nobody reported."""
        self.permits.roll(now)
        self.calls.roll(now)
        if self.breaker.overdue(now):
            if self.breaker.probe_call is None:
                self._leave(self.breaker.pass_on, now)
            else:
                self.breaker.open(now, jitter)
                self.permits.clear()
        self.breaker.roll(now)

    def fields(self) -> dict[str, float | int | str | None]:
        """The state under the names of the Redis hash, to compare the two."""
        breaker = self.breaker
        found: dict[str, float | int | str | None] = {
            "state": breaker.state.value,
            "epoch": breaker.epoch,
            "since": breaker.since,
            "opened_at": breaker.opened_at,
            "failures": breaker.failures,
            "failed_by": breaker.failed_by,
            "well_by": breaker.well_by,
            "well_at": breaker.well_at,
            "denied": breaker.denied,
            "shut": None if breaker.shut is None else breaker.shut.text,
            "probe_at": breaker.probe_at,
            "probe_wait": breaker.probe_wait,
            "limit": self.ramp.limit,
            "cut_at": self.ramp.cut_at,
            "trouble": self.ramp.trouble,
            "tat": self.pace.tat,
            "pause_until": self.pause.until,
        }
        for size_class in (0, *CLASSES):
            found[f"slow:{size_class}"] = self.ramp.slow.get(size_class)
        for most, window in self.windows.items():
            found[f"raised:{most}"] = window.raised
            found[f"p95:{most}"] = window.p95
            found[f"n:{most}"] = len(window)
        for name in ("calls", "held", "opened", "probes", "denied", "bypassed", "late"):
            found[f"n_{name}"] = self.counters[name]
        return found

    def _why_not(self, now: float, *, through: bool) -> Why | None:
        """What keeps a session from calling while the breaker is closed."""
        if self.pause.until > now:
            return Why.PAUSE
        if through:
            return None
        if self.held:
            return Why.QUEUE
        most = self.ramp.most
        if most is not None and len(self.calls) + len(self.permits) >= most:
            return Why.LIMIT
        return Why.PACE if self.pace.wait(now) > 0 else None

    def _go(self, now: float, session: str, call: str, size: int) -> Go:
        probe = self.breaker.state is State.PROBING
        size_class = class_of(size)
        ceiling = self.policy.ceiling * 1000
        deadline = ceiling if probe else self.deadline(now, size_class)
        delay = self.pace.reserve(now)
        ends = now + delay + deadline + self.policy.grace * 1000
        self.calls.add(call, ends)
        self.counters["calls"] += 1
        if probe:
            self.breaker.probe_call = call
            self.breaker.probe_ends = ends
            self.counters["probes"] += 1
        return Go(deadline, delay, self.breaker.epoch, size_class, probe, call)

    def _hold(self, session: str, call: str, why: Why) -> Hold:
        self.calls.remove(call)  # an answer was lost, and the call asks again
        self.held[session] = None
        self.counters["held"] += 1
        return Hold(why)

    def _probe_due(self, now: float) -> bool:
        """A ``Retry-After`` holds the probe as well, and so does a maintenance."""
        due = self.breaker.probe_at <= now and self.pause.until <= now
        return due and not self.breaker.is_shut(now)

    def _probe(self, now: float, session: str) -> None:
        self.breaker.probe(now, session)
        self.permits.clear()

    def _leave(self, transition: Callable[[float], None], now: float) -> None:
        """Change the breaker's state: permits of the epoch that ends are void."""
        transition(now)
        self.permits.clear()

    def _room(self, now: float) -> int:
        """Permits that may be granted now."""
        out = len(self.permits)
        most = self.ramp.most
        room = RELEASE_WIDTH - out if most is None else most - len(self.calls) - out
        places = self.pace.places(now)
        return max(0, room if places is None else min(room, places - out))

    def _learn(
        self,
        now: float,
        call: str,
        size_class: int,
        ended: Ended,
        duration: float,
        deadline: float,
    ) -> None:
        """Samples and lifts, which count whatever the epoch."""
        if size_class == 0:
            return
        if ended is Ended.OK and duration >= 0:
            self.windows[size_class].observe(now, duration, call)
        elif ended is Ended.TIMEOUT and deadline < self.policy.ceiling * 1000:
            for most, window in self.windows.items():
                if most >= size_class:
                    window.lift()

    def _move(
        self,
        now: float,
        call: str,
        size_class: int,
        ended: Ended,
        duration: float,
        deadline: float,
        retry_after: float,
        why: str,
        jitter: float,
    ) -> None:
        """What a result of this epoch does to breaker, pause and ramp."""
        breaker, ramp = self.breaker, self.ramp
        in_flight = len(self.calls) + 1
        measured = duration >= 0  # NaN is not
        started = now - duration if measured else now
        well = ended in (Ended.OK, Ended.REFUSED, Ended.LIMITED)
        at_ceiling = deadline >= self.policy.ceiling * 1000
        denied = why if ended is Ended.DENIED else None
        worker = call.rpartition("#")[0]
        if well:
            breaker.went_well(now, worker)
        elif ended is Ended.FAILED or (ended is Ended.TIMEOUT and at_ceiling):
            breaker.failed(worker)
        elif denied is not None:
            self.counters["denied"] += 1
        if ended is Ended.LIMITED:
            self.pause.ask(now, retry_after, jitter)
            if ramp.limit is None:
                ramp.start(now, in_flight / 2)
        if breaker.state is State.PROBING:
            if call == breaker.probe_call:
                if well:
                    breaker.close(now)
                    ramp.start(now, 1.0)
                    if ended is Ended.OK and measured:
                        ramp.measure(size_class, duration)
                else:
                    breaker.open(now, jitter, denied)
                self.permits.clear()
            return
        if ended is Ended.OK and measured:
            ramp.measure(size_class, duration)
            ramp.ended(now, started, in_flight, bad=ramp.is_slow(size_class, duration))
        elif ended in (Ended.FAILED, Ended.TIMEOUT, Ended.LIMITED):
            ramp.ended(now, started, in_flight, bad=True, told=ended is Ended.LIMITED)
        if denied is None:
            trips = breaker.trips(now, in_flight)
        else:
            trips = breaker.trips_denied(now, worker)
        if trips:
            breaker.open(now, jitter, denied)
            self.permits.clear()
            self.counters["opened"] += 1
