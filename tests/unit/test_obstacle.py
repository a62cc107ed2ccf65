"""What a flush that ran out of time says of the turns it waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hermes_tasks.gate import GateStatus, Maintenance, State
from hermes_tasks.gateway.obstacle import in_redis
from hermes_tasks.transport import Progress
from hermes_tasks.transport.histogram import Histogram

NOW = 1_800_000_000  # 2027-01-15T08:00:00Z

READY = Progress(
    state="ready",
    accepted=7,
    first_unsettled=4,
    inflight=1,
    waiting=2,
    backlog=1,
    wake_at_ms=None,
    attempts=0,
    now_ms=NOW * 1000,
    since_ms=NOW * 1000 - 12_000,
    swept_at_ms=NOW * 1000 - 100,
    lands_ms=0,
    ahead=3,
    trace="",
)
ASLEEP = replace(READY, state="sleeping", wake_at_ms=NOW * 1000 + 8_000)
HELD = replace(READY, state="held", trace="1 held: pace\n")
CLOSED = GateStatus(
    name="default:w",
    state=State.CLOSED,
    since=None,
    now=NOW,
    epoch=0,
    failures=0,
    denied="",
    probe_at=None,
    maintenance=None,
    pause_until=None,
    pause_why="",
    limit=None,
    rate=None,
    calls=0,
    permits=0,
    held=40,
    classes=(),
    counters={},
    took=Histogram((), (0,), 0.0),
)
OPEN = replace(CLOSED, state=State.OPEN, probe_at=NOW + 30)

UNTIL = "the breaker is open until 2027-01-15T08:00:30+00:00, when Honcho is tried again"

SAID = {
    "no worker ever": (
        replace(READY, swept_at_ms=None),
        CLOSED,
        "no worker has run yet: start one",
        5,
    ),
    "paused": (
        replace(READY, state="paused"),
        CLOSED,
        "somebody has paused the session, and it goes on when it is resumed",
        1,
    ),
    "a maintenance with an end": (
        HELD,
        replace(OPEN, maintenance=Maintenance(NOW, NOW + 30, "a new disk")),
        "calls to Honcho are stopped by hand until 2027-01-15T08:00:30+00:00 (a new disk)",
        30,
    ),
    "a maintenance without one": (
        HELD,
        replace(OPEN, probe_at=None, maintenance=Maintenance(NOW, None, "")),
        "calls to Honcho are stopped by hand until somebody lets them go on",
        1,
    ),
    "no worker any more": (
        replace(HELD, swept_at_ms=NOW * 1000 - 61_000),
        OPEN,
        "no worker is running, and none has for 61 s",
        5,
    ),
    "a worker whose clock was ahead": (
        replace(READY, swept_at_ms=NOW * 1000 + 61_000),
        CLOSED,
        "every worker is busy, and 3 other sessions may go first",
        1,
    ),
    "busy workers": (
        replace(READY, ahead=1),
        CLOSED,
        "every worker is busy, and 1 other session may go first",
        1,
    ),
    "nobody ahead": (
        replace(READY, ahead=0),
        CLOSED,
        "no worker has been free to take them",
        1,
    ),
    "a worker at work": (replace(READY, state="leased"), CLOSED, "a worker is writing", 1),
    "a failure": (
        replace(ASLEEP, trace="1 HTTP 503\n2 held: open\n3 HTTP 500\n4 held: open\n"),
        CLOSED,
        "an attempt to write failed (HTTP 500) and the next is at 2027-01-15T08:00:08+00:00",
        8,
    ),
    "a failure nobody has noted": (
        ASLEEP,
        CLOSED,
        "an attempt to write failed and the next is at 2027-01-15T08:00:08+00:00",
        8,
    ),
    "a call that may land": (
        replace(ASLEEP, lands_ms=NOW * 1000 + 45_000, trace="1 time-out\n"),
        CLOSED,
        "an earlier call to Honcho may still land until 2027-01-15T08:00:45+00:00",
        8,
    ),
    "the breaker": (
        HELD,
        OPEN,
        f"{UNTIL}: Honcho was failing",
        30,
    ),
    "a wrong key": (
        HELD,
        replace(OPEN, denied="HTTP 401: set HONCHO_API_KEY of the workers"),
        f"{UNTIL}: HTTP 401: set HONCHO_API_KEY of the workers",
        30,
    ),
    "a probe": (
        HELD,
        replace(CLOSED, state=State.PROBING),
        "the breaker is open, and a call to try Honcho is under way",
        1,
    ),
    "a pause": (
        HELD,
        replace(CLOSED, pause_until=NOW + 90, pause_why="HTTP 429"),
        "Honcho asked for a pause until 2027-01-15T08:01:30+00:00 (HTTP 429)",
        90,
    ),
    "a rate": (
        HELD,
        replace(CLOSED, rate=5.0),
        "40 sessions wait for the rate limit of 5 calls a second",
        8,
    ),
    "a rate of the workers": (HELD, CLOSED, "40 sessions wait for the rate limit", 1),
    "a recovery": (
        replace(HELD, trace="1 held: limit\n"),
        replace(CLOSED, limit=2.6, held=1),
        "1 session waits for Honcho, which gets 2 calls at a time since it failed",
        1,
    ),
    "a gate that is silent": (
        HELD,
        None,
        "Honcho is not called at the moment, or others go first",
        1,
    ),
}


@pytest.mark.parametrize(("progress", "gate", "reason", "again"), SAID.values(), ids=SAID.keys())
def test_it_says_what_turns_wait_for_and_when_to_ask_again(
    progress: Progress, gate: GateStatus | None, reason: str, again: float
) -> None:
    obstacle = in_redis(progress, 6, lambda: gate)
    assert (obstacle.reason, obstacle.retry_after) == (reason, again)
    # of the turns accepted before the flush: the one behind them is not counted
    assert obstacle.waiting == 3
    assert obstacle.oldest == 12
