"""A rate for the whole deployment, shared fairly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

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
    deployment.send(sessions, 3)
    deployment.wait_until_written(DONE)
    times = [at for at, _ in honcho.arrivals()[before:]]
    # Then no second holds more calls, wherever it begins; but that on its way from the gate to the
    # server a call may be late by as long as the next one is away
    spans = [times[i + RATE] - times[i] for i in range(len(times) - RATE)]
    pace = (len(times) - 1) / (times[-1] - times[0])
    print(f"{len(times)} calls, {pace:.2f}/s, {RATE + 1} calls within {min(spans):.3f} s at least")
    assert min(spans) >= 1.0 - 1 / RATE
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
