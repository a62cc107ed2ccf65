"""Why turns are not written yet, and when to ask again: what a flush that ran out of time says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from hermes_tasks.errors import StillSyncing
from hermes_tasks.gate import GateStatus, State, Why
from hermes_tasks.transport import Progress
from hermes_tasks.transport.trace import WAIT, failures

ASK_AGAIN_SECONDS = 1.0
"""When to ask again where nothing better is known."""

NO_WORKER_SECONDS = 5.0
"""How long nobody has looked after the sessions when no worker runs: each does every 0.25 s."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What turns wait for.

    Attributes:
        waiting: how many they are.
        reason: what they wait for, as the end of a sentence.
        retry_after: seconds after which to ask again.
        oldest: seconds since the oldest of them was accepted by Redis, if it was.
    """

    waiting: int
    reason: str
    retry_after: float = ASK_AGAIN_SECONDS
    oldest: float | None = None


def in_redis(
    progress: Progress, target: int, gate: Callable[[], GateStatus | None] = lambda: None
) -> Obstacle:
    """What the messages of a session up to number ``target`` wait for.

    Args:
        progress: of the session, with a message up to ``target`` that is not settled.
        target: number of the last one that somebody waits for.
        gate: asked for the gate of the session if that matters; ``None``: nothing is known of it.
    """
    first = target if progress.first_unsettled is None else progress.first_unsettled
    held = progress.inflight + progress.waiting + progress.backlog
    now = progress.now_ms / 1000
    reason, again = _reason(progress, now, gate)
    return Obstacle(
        waiting=max(1, min(target - first + 1, held)),
        reason=reason,
        retry_after=max(0.0, again - now),
        oldest=None if progress.since_ms is None else max(0.0, now - progress.since_ms / 1000),
    )


def _reason(
    progress: Progress, now: float, gate: Callable[[], GateStatus | None]
) -> tuple[str, float]:
    """What a session waits for, and when to ask again, by the clock of Redis."""
    later = now + ASK_AGAIN_SECONDS
    if progress.state == "paused":
        return "somebody has paused the session, and it goes on when it is resumed", later
    if progress.swept_at_ms is None:
        return "no worker has run yet: start one", now + NO_WORKER_SECONDS
    unseen = now - progress.swept_at_ms / 1000
    if unseen > NO_WORKER_SECONDS:
        return f"no worker is running, and none has for {unseen:.0f} s", now + NO_WORKER_SECONDS
    if progress.state == "sleeping" and progress.wake_at_ms is not None:
        wake = progress.wake_at_ms / 1000
        if progress.lands_ms > progress.now_ms:
            lands = clock(progress.lands_ms / 1000)
            return f"an earlier call to Honcho may still land until {lands}", wake
        failed = failures(progress.trace)
        why = f" ({failed[-1]})" if failed else ""
        return f"an attempt to write failed{why} and the next is at {clock(wake)}", wake
    if progress.state == "held":
        status = gate()
        return (
            ("Honcho is not called at the moment, or others go first", later)
            if status is None
            else _at_the_gate(status, paced=progress.trace.endswith(f"{WAIT}{Why.PACE}\n"))
        )
    if progress.state == "leased":
        return "a worker is writing", later
    if progress.ahead == 0:
        return "no worker has been free to take them", later
    others = "other session" if progress.ahead == 1 else "other sessions"
    return f"every worker is busy, and {progress.ahead} {others} may go first", later


def _at_the_gate(gate: GateStatus, *, paced: bool) -> tuple[str, float]:
    later = gate.now + ASK_AGAIN_SECONDS
    if gate.maintenance is not None:
        until, why = gate.maintenance.until, gate.maintenance.why
        end = "somebody lets them go on" if until is None else clock(until)
        said = f" ({why})" if why else ""
        return f"calls to Honcho are stopped by hand until {end}{said}", until or later
    if gate.pause_until is not None:
        why = f" ({gate.pause_why})" if gate.pause_why else ""
        return f"Honcho asked for a pause until {clock(gate.pause_until)}{why}", gate.pause_until
    if gate.state is State.OPEN and gate.probe_at is not None:
        why = gate.denied or "Honcho was failing"
        probe = clock(gate.probe_at)
        return (
            f"the breaker is open until {probe}, when Honcho is tried again: {why}",
            gate.probe_at,
        )
    if gate.state is State.PROBING:
        return "the breaker is open, and a call to try Honcho is under way", later
    sessions = "1 session waits" if gate.held == 1 else f"{gate.held} sessions wait"
    if gate.rate is not None:
        # As if all of them went first.
        wait = max(ASK_AGAIN_SECONDS, gate.held / gate.rate)
        return f"{sessions} for the rate limit of {gate.rate:g} calls a second", gate.now + wait
    if paced:  # the workers have it set, this process has not
        return f"{sessions} for the rate limit", later
    if gate.limit is not None:
        calls = f"{math.floor(gate.limit)} calls at a time"
        return f"{sessions} for Honcho, which gets {calls} since it failed", later
    return f"{sessions} for Honcho", later


def still_syncing(obstacle: Obstacle, seconds: float) -> StillSyncing:
    """What is raised when turns were waited for in vain, for so many seconds."""
    turns = "1 turn waits" if obstacle.waiting == 1 else f"{obstacle.waiting} turns wait"
    since = "" if obstacle.oldest is None else f", the oldest for {obstacle.oldest:.1f} s"
    return StillSyncing(
        f"{turns} to be written after {seconds:.1f} s{since}: {obstacle.reason}; "
        f"nothing is lost, ask again in {obstacle.retry_after:.0f} s",
        waiting=obstacle.waiting,
        seconds=seconds,
        oldest=obstacle.oldest,
        reason=obstacle.reason,
        retry_after=obstacle.retry_after,
    )


def clock(time: float) -> str:
    """A time of the Redis clock as ISO 8601."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
