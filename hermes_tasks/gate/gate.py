"""The gate of one backend in Redis: one typed function for every script.

Each method is one script, and so one atomic change that all workers see; the ``.lua`` file of the
same name gives its contract, and ``rules.py`` the same decisions in Python. Errors of Redis come
through as :class:`redis.exceptions.RedisError`: whether to call without an answer is the
caller's to decide.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hermes_tasks import hooks
from hermes_tasks.gate.policy import Policy
from hermes_tasks.gate.rules import CLASSES, Ended, Go, Hold, Release, State, Why
from hermes_tasks.transport import events
from hermes_tasks.transport.histogram import Histogram
from hermes_tasks.transport.scripts import Script, run_all, script_of
from hermes_tasks.transport.sessions import SessionStore, one_line

logger = logging.getLogger(__name__)

#: Upper bounds of the buckets by which ``report.lua`` counts how long calls take, ms.
TOOK_BOUNDS = (
    *(50, 100, 250, 500, 1_000, 2_500, 5_000, 7_500),
    *(10_000, 15_000, 20_000, 30_000, 60_000, 120_000),
)

#: Scripts that work on a session as well as on the gate.
_ON_SESSION = frozenset({"admit", "resume"})


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """The deadline of one size class, and what it follows from. Times are seconds.

    Attributes:
        most: messages in a call of this class at most.
        deadline: in force.
        p95: nearest-rank, of the recent successes; ``None`` without any.
        samples: how many those are.
        raised: fast calls still to come before the class leaves the ceiling.
    """

    most: int
    deadline: float
    p95: float | None
    samples: int
    raised: int


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Calls are stopped by hand. Times are seconds of the Redis clock.

    Attributes:
        since: when that was done.
        until: when it is over, and a probe is let in; ``None``: when somebody closes the breaker.
        why: as they gave it, for people.
    """

    since: float
    until: float | None
    why: str


@dataclass(frozen=True, slots=True)
class GateStatus:
    """The gate as it was at one instant. Times are seconds of the Redis clock.

    Attributes:
        name: of the backend and workspace.
        since: when the breaker closed or, if it is not closed, when it opened, whatever probes were
            made since; ``None`` for one that never opened.
        now: when this was read.
        epoch: number of the state.
        failures: in a row.
        denied: how the backend denied the call for which the breaker is open, and what to do; else
            empty.
        probe_at: while open, when the next probe is due; ``None`` while nobody has said when.
        maintenance: while open by hand.
        pause_until: until when a 429 holds every worker, while it does; ``pause_why`` says more.
        limit: calls that may be in flight at once, after a recovery.
        rate: calls a second, as this process has it set.
        calls: in flight.
        permits: released sessions that have not come yet.
        held: sessions that wait for the gate.
        counters: ``calls``, ``held``, ``opened``, ``probes``, ``denied``, ``bypassed``, ``late``.
        took: how long calls that write took, whatever became of them.
    """

    name: str
    state: State
    since: float | None
    now: float
    epoch: int
    failures: int
    denied: str
    probe_at: float | None
    maintenance: Maintenance | None
    pause_until: float | None
    pause_why: str
    limit: float | None
    rate: float | None
    calls: int
    permits: int
    held: int
    classes: tuple[ClassStatus, ...]
    counters: dict[str, int]
    took: Histogram


@dataclass(slots=True)
class Gate:
    """Flow control of one backend, shared by every worker.

    Attributes:
        store: the sessions of the deployment; what is held are sessions of this store.
        policy: by which this process decides.
        name: of the backend and workspace, joined by a colon.
        jitter: a random number in [0, 1), a fresh one for every script.
    """

    store: SessionStore
    policy: Policy
    name: str
    jitter: Callable[[], float] = random.random
    _keys: tuple[str, ...] = field(init=False, repr=False)
    _policy: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._keys = self.store.names.gate(self.name)
        self._policy = self.policy.script_argument()

    def admit(
        self,
        session: str,
        token: str,
        numbers: tuple[int, int],
        call: str,
        size: int,
        *,
        bypassed: int = 0,
    ) -> Go | Hold | None:
        """Ask for one call, as the last step before its first byte.

        With :class:`Go` the call's intent is recorded and the lease renewed, as ``begin`` does;
        with :class:`Hold` the session is given up, without a failed attempt. ``None``: the token
        does not hold the lease.

        Args:
            session: that the call is for.
            token: of the lease on it.
            numbers: the first and the last message that the call writes; (0, 0) for none.
            call: an id of the call, not used before; one of the form ``worker#…`` says whose it
                is, which keeps a worker without a network from opening the breaker for all.
            size: how many messages it carries; 0 for a call that writes nothing.
            bypassed: calls that this worker made meanwhile without asking.
        """
        answer = self._run(
            "admit",
            session,
            token,
            self.store.options.lease_ms,
            *numbers,
            call,
            size,
            self.jitter(),
            bypassed,
            self.name,
            self.store.options.landing_ms,
            session=session,
        )
        match answer:
            case [b"go", deadline, delay, epoch, size_class, probe]:
                return Go(float(deadline), float(delay), epoch, size_class, bool(probe), call)
            case [b"held", why]:
                return Hold(Why(why.decode()))
        return None

    def report(
        self,
        go: Go,
        ended: Ended,
        seconds: float,
        retry_after: float | None = None,
        *,
        why: str = "",
    ) -> State:
        """Say how a call ended, and resume the held sessions that may come now.

        Args:
            go: what admitted it.
            ended: how it ended.
            seconds: it took; NaN and a negative number say nothing.
            retry_after: seconds that a 429 asked for, if it did.
            why: what the 429 said, or how the call was denied and what to do, for people. No
                conversation text.

        Returns:
            The breaker's state after that.
        """
        state, news, denied, *released = self._run(
            "report",
            go.call,
            go.epoch,
            go.size_class,
            ended.value,
            repr(seconds * 1000),
            repr(go.deadline),
            -1 if retry_after is None else repr(retry_after * 1000),
            why,
            self.jitter(),
        )
        # Whichever worker's call it was says it, once for the whole deployment.
        if denied:
            logger.error("%s denies every call (%s): none until a probe is let in", self.name, why)
        elif news == b"opened":
            logger.warning("%s does not answer: no more calls until a probe succeeds", self.name)
        elif news == b"closed":
            logger.warning("%s answers again: held sessions go on", self.name)
        self._tell_hooks(news, why if denied else "")
        self.resume(_release(released))
        return State(state.decode())

    def open(self, seconds: float | None = None, why: str = "") -> None:
        """Stop all calls by hand, as for a planned maintenance: no call, and no probe.

        Calls under way go on. When the time is over a probe is let in, and if it succeeds held
        sessions go on with the ramp. A second call replaces time and reason of the first.

        Args:
            seconds: for how long; ``None``: until :meth:`close`.
            why: for people.
        """
        lasts = 0 if seconds is None else repr(max(1.0, seconds * 1000))
        why = one_line(why)
        news = self._run("open", lasts, why, self.jitter(), self.name)
        logger.warning("%s is not called any more: stopped by hand (%s)", self.name, why)
        self._tell_hooks(news, why)

    def close(self) -> bool:
        """Let calls be made again, whether somebody has stopped them or failures have.

        Held sessions go on with the ramp. A pause that the backend asked for goes on.

        Returns:
            Whether calls were stopped.
        """
        return self._let_go_on("close", "closed by hand")

    def reset(self) -> bool:
        """Forget latencies, ramp, pace, pause and breaker: the gate begins anew.

        Counters stay, and so do calls in flight, and sessions held: those go on, as many at a time
        as at a new gate. After an outage :meth:`close` is kinder to the backend.

        Returns:
            Whether calls were stopped by the breaker.
        """
        return self._let_go_on("reset", "reset by hand")

    def _let_go_on(self, script: str, what: str) -> bool:
        news, *released = self._run(script, self.jitter())
        if news:
            logger.warning("The breaker of %s was %s: held sessions go on", self.name, what)
            self._tell_hooks(news, what)
        self.resume(_release(released))
        return bool(news)

    def _tell_hooks(self, news: bytes, detail: str) -> None:
        """``news``: what a script has done to the breaker: opened, closed or nothing."""
        if news:
            hooks.emit(
                hooks.breaker_changed,
                events.counter(self.store),
                gate=self.name,
                state=(State.OPEN if news == b"opened" else State.CLOSED).value,
                detail=detail,
            )

    def release(self) -> State:
        """Resume the held sessions that may come now: what the timer does."""
        state, *released = self._run("release", self.jitter())
        self.resume(_release(released))
        return State(state.decode())

    def resume(self, release: Release) -> int:
        """Queue released sessions for a worker again, in one round trip; returns how many were.

        What is not done, because this process ends before, the next release names again.
        """
        script = _script("resume")
        calls = [
            (
                (*self.store.names.session(session), *self._keys),
                (session, int(release.probe), self.name, self._policy),
            )
            for session in release.sessions
        ]
        return sum(run_all(self.store.client, script, calls))

    def status(self) -> GateStatus:
        """What ``hermes-tasks status`` shows, read at one instant."""
        return self._status(self._run("status"))

    def _status(self, answer: Sequence[Any]) -> GateStatus:
        now, calls, permits, held, flat = answer
        pairs = iter(flat)
        found = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in zip(pairs, pairs, strict=True)
        }
        now_ms = float(now)
        # What is none stops no call: that is how the scripts take it.
        state = next((one for one in State if one.value == found.get("state")), State.CLOSED)
        pause_until = _number(found, "pause_until")
        paused = pause_until > now_ms
        maintenance = _maintenance(found, now_ms)
        probe_at = _number(found, "probe_at", now_ms) / 1000 if state is State.OPEN else None
        if maintenance is not None and probe_at is not None:
            probe_at = None if maintenance.until is None else max(probe_at, maintenance.until)
        since = _number(found, "opened_at") or _number(found, "since")
        return GateStatus(
            name=self.name,
            state=state,
            since=since / 1000 if since else None,
            now=now_ms / 1000,
            epoch=int(_number(found, "epoch")),
            failures=int(_number(found, "failures")),
            denied=found.get("denied", ""),
            probe_at=probe_at,
            maintenance=maintenance,
            pause_until=pause_until / 1000 if paused else None,
            pause_why=found.get("pause_why", "") if paused else "",
            limit=_number(found, "limit") if "limit" in found else None,
            rate=self.policy.rate,
            calls=calls,
            permits=permits,
            held=held,
            classes=tuple(self._class_status(most, found, now_ms) for most in CLASSES),
            counters={
                name: int(_number(found, f"n_{name}"))
                for name in ("calls", "held", "opened", "probes", "denied", "bypassed", "late")
            },
            took=Histogram.of(
                "took", TOOK_BOUNDS, {field: _number(found, field) for field in found}
            ),
        )

    def _class_status(self, most: int, found: dict[str, str], now_ms: float) -> ClassStatus:
        """As ``admit.lua`` has it."""
        policy = self.policy
        raised = int(_number(found, f"raised:{most}"))
        old = _number(found, f"sampled_at:{most}") <= now_ms - policy.window_seconds * 1000
        samples = 0 if old else int(_number(found, f"n:{most}"))
        p95 = _number(found, f"p95:{most}") / 1000 if samples else None
        deadline = policy.ceiling
        if p95 is not None and samples >= policy.warmup and not raised:
            deadline = min(max(policy.headroom * p95, policy.floor), policy.ceiling)
        return ClassStatus(most, deadline, p95, samples, raised)

    def _run(self, name: str, *arguments: Any, session: str | None = None) -> Any:
        keys = self._keys
        if session is not None:
            keys = (*self.store.names.session(session), *keys)
        return _script(name)(self.store.client, keys, (*arguments, self._policy))


def _release(answer: Sequence[Any]) -> Release:
    probe, *sessions = answer
    return Release(bool(probe), tuple(session.decode() for session in sessions))


def _number(found: Mapping[str, str], field: str, without: float = 0.0) -> float:
    """A field; ``without`` if it is missing or no number, as ``hermes-tasks check`` then says."""
    try:
        number = float(found.get(field, without))
    except ValueError:
        return without
    return number if math.isfinite(number) else without


def _maintenance(found: Mapping[str, str], now_ms: float) -> Maintenance | None:
    """As ``gate.lua`` has it."""
    until, _, rest = found.get("shut", "").partition(" ")
    lasts, _, why = rest.partition(" ")
    try:
        ends, longest = float(until), now_ms + float(lasts)
    except ValueError:  # there is none, or nobody can read it: then it is not in force either
        return None
    if 0 < ends <= now_ms:
        return None
    return Maintenance(
        _number(found, "since") / 1000, min(ends, longest) / 1000 if ends else None, why
    )


def release_all(store: SessionStore, policy: Policy) -> None:
    """Resume what may come at every gate that holds sessions: a chore of every worker's keeper."""
    names: Any = store.client.zrange(store.names.gates, 1, 1, byscore=True)
    for name in names:
        Gate(store, policy, name.decode()).release()


def known_gates(store: SessionStore, policy: Policy) -> list[Gate]:
    """Every gate that has let a call through or holds a session, by name."""
    names: Any = store.client.zrange(store.names.gates, 0, -1)
    return [Gate(store, policy, name) for name in sorted(name.decode() for name in names)]


def read_gates(store: SessionStore, policy: Policy) -> list[GateStatus]:
    """The status of every known gate, by name, in one round trip behind the one for their names."""
    gates = known_gates(store, policy)
    calls = [(gate._keys, (gate._policy,)) for gate in gates]
    answers = run_all(store.client, _script("status"), calls)
    return [gate._status(answer) for gate, answer in zip(gates, answers, strict=True)]


def _script(name: str) -> Script:
    package = __package__ or "hermes_tasks.gate"
    return script_of(package, "gate", name, on_session=name in _ON_SESSION, reads=name == "status")
