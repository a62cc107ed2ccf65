"""An operator's hand on a deployment that works: a maintenance, a pause, a worker that dies."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hermes_tasks.gate import State
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.steering import Steering
from tests.integration.outages.conftest import DONE, PROBE, check_end


def test_no_call_is_made_during_a_maintenance_and_all_are_after_it(
    deployment: Deployment,
) -> None:
    # Given turns on their way, and a Honcho that takes its time
    honcho, sessions = deployment.honcho, deployment.sessions(12)
    honcho.control(latency=0.2)
    deployment.send(sessions, 3)
    wait_until(lambda: deployment.look().calls > 0, 15.0, "calls to be under way")
    # If it is to be taken down, and somebody says so
    deployment.gate.open(why="a new disk")
    wait_until(lambda: deployment.look().calls == 0, 15.0, "the last call to end")
    wait_until(lambda: not deployment.look().leases, 15.0, "every session to be held")
    calls, probes = deployment.calls(), deployment.probes()
    honcho.control(reset=True, fail=503, times=-1, route="any")
    deployment.send(sessions)
    # I expect not one call, where a breaker would have probed several times
    time.sleep(4 * PROBE)
    assert deployment.calls() == calls
    assert deployment.probes() == probes
    assert deployment.look().leases == 0, "nobody waits in a slot"

    # And all to be written, in order and once, when somebody says that it is over
    honcho.control(reset=True)
    assert deployment.gate.close()
    deployment.wait_until_written(DONE)
    assert deployment.audit(sessions).is_clean
    assert deployment.gate.status().state is State.CLOSED


def test_a_maintenance_that_takes_longer_than_was_said_costs_probes_only(
    deployment: Deployment, honcho: HonchoServer
) -> None:
    sessions = deployment.sessions(6)
    before = deployment.gate.status().counters
    honcho.control(fail=503, times=-1, route="any")
    deployment.gate.open(0.5, "an update")
    deployment.send(sessions, 2)
    calls = deployment.calls()
    wait_until(lambda: deployment.probes() >= before["probes"] + 2, 15.0, "two probes to fail")
    assert deployment.calls() - calls <= deployment.probes() - before["probes"]
    honcho.control(reset=True)
    deployment.wait_until_written(DONE)
    assert deployment.audit(sessions).is_clean


@pytest.mark.chaos
def test_a_paused_session_waits_though_its_worker_is_killed_and_others_go_on(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given a session that is paused while a worker writes it
    deployment = deploy(lease_seconds=2, timeout_ceiling=1.0, landing_seconds=0.5)
    steering = Steering(deployment.store)
    deployment.start(1)
    paused, *others = deployment.sessions(6)
    session = deployment.key(paused)
    honcho.control(stall=30)
    deployment.send([paused])
    wait_until(lambda: deployment.store.progress(session).state == "leased", 15.0, "a claim")
    assert steering.pause(session) == "leased"
    # If that worker is killed, and another comes
    deployment.workers[0].kill()
    honcho.control(reset=True)
    deployment.start(1)
    deployment.send([paused, *others], 3)
    # I expect all others to be written, and this to be left alone
    wait_until(lambda: deployment.audit(others).is_clean, DONE, "the others to be written")
    wait_until(lambda: deployment.store.progress(session).state == "paused", 15.0, "the pause")
    assert deployment.audit([paused]).written == 0
    assert not steering.wait(session, 0.5).settled

    # And then, resumed, to be written in order, and once
    assert steering.resume(session) in ("ready", "sleeping")
    assert steering.wait(session, DONE).settled
    assert deployment.audit().is_clean
    check_end(deployment)
