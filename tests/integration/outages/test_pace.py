"""A rate for the whole deployment, shared fairly."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from hermes_tasks.gate.rules import PACE_SPACING
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from tests.integration.outages.conftest import DONE, check_end, complaints

RATE = 5


@pytest.mark.slow
def test_four_workers_stay_within_the_rate_and_sessions_share_it(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given four workers and a rate
    deployment = deploy(rate_limit=f"{RATE}/s", batch_turns=1)
    deployment.start(4, "-P", "threads", "-c", "2")
    sessions = deployment.sessions(5)
    before = len(honcho.arrivals())
    # When all sessions have more turns than it lets through
    client: Any = deployment.store.client  # its monitor has no types
    with client.monitor() as monitor:
        deployment.send(sessions, 3)
        deployment.wait_until_written(DONE)
        starts = _starts(deployment, monitor)
    times = [at for at, _ in honcho.arrivals()[before:]]
    # Then no second holds more calls than the rate, wherever it begins,
    assert min(_spans(starts)) >= 1.0
    # and at no time have more calls come than had been let start,
    assert len(times) <= len(starts)
    early = max(start - at for start, at in zip(starts, times, strict=False))
    assert early <= 0
    # and they come so, but for a few that are late on their way: one that is has the next ones near
    spans = _spans(times)
    assert sum(span < 1.0 for span in spans) <= len(spans) // 4
    pace = (len(times) - 1) / (times[-1] - times[0])
    print(
        f"{len(times)} calls, {pace:.2f}/s, {RATE + 1} start within {min(_spans(starts)):.3f} s at "
        f"least, and come within {min(spans):.3f} s"
    )
    # and the rate is used
    assert pace >= 0.8 * RATE
    # and no session is far ahead of another
    written = dict.fromkeys(sessions, 0)
    apart = 0
    for entry in honcho.log():
        if entry["session"] in written and entry["metadata"]["part"] == 0:
            written[entry["session"]] += 1
            apart = max(apart, max(written.values()) - min(written.values()))
    assert apart <= 2
    assert deployment.audit().is_clean
    assert complaints(deployment.log()) == []
    assert all(earlier <= later for earlier, later in pairwise(times))
    check_end(deployment)


def _spans(times: list[float]) -> list[float]:
    """Seconds from each call to that which would be one too many with it."""
    return [later - earlier for earlier, later in zip(times, times[RATE:], strict=False)]


def _starts(deployment: Deployment, monitor: Any) -> list[float]:
    """When the gate let each call start, in seconds of :func:`time.monotonic`.

    A call is late at the server by as long as its worker and the network please; when it may start
    is exact. It is read from what the gate's script writes: where the next one has its place.
    """
    client = deployment.store.client
    hash_, *_ = deployment.store.names.gate(deployment.gate.name)
    behind = time.time() - time.monotonic()
    client.echo("that was all")
    starts: list[float] = []
    while (command := monitor.next_command()["command"]) != "ECHO that was all":
        name, _, arguments = command.partition(" ")
        if name == "HSET" and arguments.startswith(f"{hash_} tat "):
            next_one = float(arguments.split(" ")[2]) / 1000
            starts.append(next_one - PACE_SPACING / RATE - behind)
    return starts
