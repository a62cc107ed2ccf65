"""What happens to the gate itself: it protects, it never blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from tests.integration.outages.conftest import DONE, check_end

#: What a user may touch who was never told of the gate: everything of ours but its keys.
NO_GATE = "~{*}:[^g]* ~{*}.* ~[^{]*"


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that a test may hurt; its user may do anything."""
    with EmbeddedValkey(user="hermes", password="secret") as server:
        yield server


@pytest.mark.chaos
def test_calls_go_ahead_when_redis_refuses_the_gate(
    deploy: Callable[..., Deployment], own_server: Server
) -> None:
    # Given a user of Redis who may not touch the keys of the gate
    deployment = deploy(server=own_server)
    client: Any = deployment.store.client
    client.execute_command("ACL", "SETUSER", "hermes", "resetkeys", *NO_GATE.split())
    deployment.start(1)
    sessions = deployment.sessions(10)
    before = deployment.calls()
    # When turns come
    deployment.send(sessions, 2)
    # Then they are written all the same, in order
    deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    assert deployment.store.counters().get("postponed", 0) == 0

    # And the gate is told of each of those calls once it can be asked again
    client.execute_command("ACL", "SETUSER", "hermes", "allkeys")
    made = deployment.calls() - before
    wait_until(
        lambda: _bypassed(deployment, sessions) == made, DONE, f"{made} bypassed calls to be told"
    )
    print(f"{made} calls without the gate, {deployment.gate.status().counters}")
    check_end(deployment)


@pytest.mark.chaos
def test_a_call_does_not_wait_for_a_gate_that_is_slow(
    deploy: Callable[..., Deployment], own_server: Server
) -> None:
    # Given a Redis that stops answering now and then, longer than the gate has
    deployment = deploy(server=own_server, timeout_ceiling=1, landing_seconds=1)
    deployment.start(1)
    sessions = deployment.sessions(10)
    deployment.send(sessions)
    deployment.wait_until_written(DONE)

    # When calls are made all the time
    def bypassed() -> bool:
        deployment.send(sessions)
        own_server.pause()
        time.sleep(0.6)  # the fault's length
        own_server.resume()
        return _bypassed(deployment, sessions) > 0

    wait_until(bypassed, DONE, "a call to go ahead without the gate")
    # Then everything is written, once, in order, and the breaker has not moved
    deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    assert deployment.gate.status().counters["opened"] == 0
    # A call that Redis let go without being heard counts as in flight until it cannot be any more
    check_end(deployment, timeout=1.0 + 5.0 + 5.0)


def _bypassed(deployment: Deployment, sessions: list[str]) -> int:
    """As the gate has been told. A process tells it at its next call, so there is one more."""
    deployment.send(sessions)
    deployment.wait_until_written(DONE)
    return deployment.gate.status().counters["bypassed"]
