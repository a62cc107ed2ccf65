"""What happens to Honcho, and what must not happen to turns while it does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from hermes_tasks.gate import State
from hermes_tasks.testing.deployment import Deployment, probes_due
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from tests.integration.outages.conftest import CEILING, DONE, PROBE, complaints


@dataclass(frozen=True, slots=True)
class Outage:
    """A way to fail. ``forgets``: what the stand-in stored before is gone afterwards."""

    name: str
    begin: Callable[[HonchoServer], object]
    end: Callable[[HonchoServer], object] = lambda honcho: honcho.control(reset=True)
    probes: int = 2
    forgets: bool = False


OUTAGES = [
    Outage("refused", HonchoServer.stop, HonchoServer.start, forgets=True),
    Outage("hanging", lambda honcho: honcho.control(stall=3600, times=-1, route="any"), probes=1),
    Outage("500s", lambda honcho: honcho.control(fail=500, times=-1, route="any")),
]


@pytest.mark.chaos
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_an_outage_costs_one_call_a_probe_and_no_turn(
    deployment: Deployment, outage: Outage
) -> None:
    honcho = deployment.honcho
    said = deployment.logged()
    # Given sessions with turns on their way when Honcho fails, and some that come later
    before, during = deployment.sessions(12), deployment.sessions(12)
    if not outage.forgets:
        deployment.send(before, 2)
    outage.begin(honcho)
    deployment.send(during, 2)

    # When every worker has learned of it
    wait_until(lambda: deployment.look().state is not State.CLOSED, 15.0, "the breaker to open")
    since = time.monotonic()
    wait_until(lambda: _free(deployment), 15.0, "every session to be held")

    # Then only probes are made, and between them no worker has anything to do
    first, calls_first = deployment.gate.status().counters, _calls(deployment, outage)
    deployment.send(during, 2)
    looks = []

    def probed() -> bool:
        looks.append(deployment.look())
        return deployment.probes() >= first["probes"] + outage.probes and _free(deployment)

    wait_until(probed, 20.0, f"{outage.probes} probes to fail")
    calls = _calls(deployment, outage) - calls_first
    last = deployment.gate.status().counters
    seconds = time.monotonic() - since
    wait_until(lambda: _idle(deployment), 40.0, "workers that have nothing to do")
    due = probes_due(seconds, PROBE)
    print(
        f"{outage.name}: {calls} calls in {seconds:.1f} s, {last['probes']} probes, at most {due}"
    )
    assert calls <= last["probes"] - first["probes"]
    assert last["probes"] <= due
    assert max(look.leases for look in looks) <= 1
    assert max(look.calls for look in looks) <= 1

    # And when Honcho is back, every turn is written once, in order, and in silence
    outage.end(honcho)
    deployment.wait_until_written(DONE)
    found = deployment.audit(during if outage.forgets else before + during)
    assert found.is_clean, found
    assert complaints(deployment.log(said)) == []


@pytest.mark.chaos
def test_a_backend_that_flaps_loses_nothing(deployment: Deployment) -> None:
    said = deployment.logged()
    sessions = deployment.sessions(12)
    down = 0.0
    calls = deployment.calls()
    for seconds in (1.0, 1.5, 1.0):
        # Down for so long, and up for so long
        deployment.honcho.control(fail=503, times=-1, route="any")
        down += seconds
        for state in ("down", "up"):
            if state == "up":
                deployment.honcho.control(reset=True)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                deployment.send(sessions)
                time.sleep(0.3)
    deployment.wait_until_written(DONE)
    status = deployment.gate.status()
    print(
        f"flapping: {deployment.calls() - calls} calls, {status.counters['probes']} probes, "
        f"{status.counters['opened']} times open, {down:g} s down"
    )
    assert deployment.audit(sessions).is_clean
    assert status.counters["opened"] <= 3 + status.counters["probes"]
    assert complaints(deployment.log(said)) == []


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_429_holds_every_worker_as_long_as_it_asks(deployment: Deployment, form: str) -> None:
    # Given calls on their way on every worker
    said = deployment.logged()
    honcho, sessions = deployment.honcho, deployment.sessions(8)
    deployment.send(sessions)
    deployment.wait_until_written(DONE)
    # An HTTP date has whole seconds: at least two from now.
    then = datetime.now(UTC) + timedelta(seconds=3)
    asked = 2.0 if form == "seconds" else None
    longer = "2" if asked else format_datetime(then, usegmt=True)
    # When the first is told to come back later, and the others sooner
    honcho.control(latency=0.3)
    honcho.control(fail=429, retry_after=longer)
    honcho.control(fail=429, retry_after="0.1", times=3)
    began = time.time()
    deployment.send(sessions, 2)
    wait_until(lambda: _statuses(honcho, "429") and _free(deployment), 15.0, "all to be held")
    pause = deployment.gate.status().pause_until
    assert pause is not None
    assert pause >= (began + asked if asked else int(then.timestamp()))

    # Then nobody calls before that
    calls = deployment.calls()
    while (status := deployment.gate.status()).now < pause:
        made = deployment.calls() - calls
        assert made == 0 or deployment.gate.status().now >= pause
        assert status.pause_until == pause
        time.sleep(0.02)

    # And it has cost no turn an attempt
    attempts = [deployment.store.progress(deployment.key(s)).attempts for s in sessions]
    assert attempts == [0] * len(sessions)
    honcho.control(reset=True)
    deployment.wait_until_written(DONE)
    assert deployment.audit(sessions).is_clean
    assert deployment.gate.status().counters["opened"] == 0
    assert complaints(deployment.log(said)) == []


def test_a_key_that_ends_stops_all_calls_with_one_error_and_costs_no_turn_anything(
    deployment: Deployment,
) -> None:
    # Given turns, some of them on their way, when Honcho takes another key from now on
    said = deployment.logged()
    honcho, sessions = deployment.honcho, deployment.sessions(12)
    deployment.send(sessions, 2)
    honcho.control(api_key="another")
    deployment.send(sessions, 2)

    # Then only probes are made, and they find it denied, which is said and shown
    wait_until(lambda: deployment.probes() >= 2 and _free(deployment), 15.0, "two probes")
    status = deployment.gate.status()
    assert status.denied == "HTTP 401: set HONCHO_API_KEY of the workers"
    deployment.send(sessions)
    store = deployment.store
    attempts = [store.progress(deployment.key(session)).attempts for session in sessions]
    assert attempts == [0] * len(sessions)
    assert deployment.gate.status().counters["opened"] == 1

    # And with the right key every turn is written once, in order
    honcho.control(reset=True)
    deployment.wait_until_written(DONE)
    assert deployment.audit(sessions).is_clean
    assert store.dead_letters() == []
    assert [line for line in deployment.log(said).splitlines() if "denies" in line] == (
        complaints(deployment.log(said))
    )
    assert len(complaints(deployment.log(said))) == 1


@pytest.mark.chaos
@pytest.mark.parametrize("network", ["refuses", "swallows"])
def test_one_bad_worker_opens_nothing_and_its_turns_are_written_by_others(
    deployment: Deployment, network: str
) -> None:
    # Given workers that are well, and one more whose network refuses or swallows everything
    sessions = deployment.sessions(30)
    deployment.send(sessions)
    deployment.wait_until_written(DONE)
    with _black_hole() as hole:
        url = "http://127.0.0.1:9" if network == "refuses" else hole
        env = {"HONCHO_URL": url, "HERMES_TASKS_CONNECT_SECONDS": "0.3"}
        bad = deployment.start(1, "-P", "threads", "-c", "1", **env)[0]
        failed = deployment.store.counters().get("postponed", 0)

        # When it gets its share of the work
        def postponed() -> int:
            if deployment.size - deployment.settled < len(sessions):
                deployment.send(sessions)
            return deployment.store.counters().get("postponed", 0) - failed

        wait_until(lambda: postponed() >= 4, DONE, "the bad worker to fail four times")
        bad.stop()
    # Then others write what it could not, and nobody else is held up by it
    deployment.wait_until_written(DONE)
    assert deployment.audit(sessions).is_clean
    assert deployment.gate.status().counters["opened"] == 0


@pytest.mark.chaos
def test_a_worker_that_dies_with_the_probe_does_not_hold_recovery_up(
    deployment: Deployment,
) -> None:
    honcho, sessions = deployment.honcho, deployment.sessions(8)
    deployment.send(sessions)
    deployment.wait_until_written(DONE)
    honcho.control(fail=500, times=-1, route="any")
    deployment.send(sessions)
    wait_until(lambda: deployment.look().state is State.OPEN, 15.0, "the breaker to open")
    # Given a probe that hangs
    honcho.control(reset=True, stall=3600, times=-1, route="any")
    probing = wait_until(lambda: _probing(deployment), 15.0, "a probe to hang")
    # When its worker is killed, and Honcho is well again
    worker = next(w for w in deployment.workers if w.pid == probing)
    worker.kill()
    honcho.control(reset=True)
    killed = time.monotonic()
    # Then another probe follows when the time of the first is over
    deployment.wait_until_written(DONE)
    first = deployment.gate.status()
    seconds = time.monotonic() - killed
    print(f"written {seconds:.1f} s after the kill, {first.counters}")
    # its deadline, the time a silent call counts as in flight, the next interval, and some to write
    assert seconds < CEILING + 5.0 + 2 * PROBE * 1.1 + 8.0
    assert first.counters["probes"] >= 2
    assert deployment.audit(sessions).is_clean


@contextmanager
def _black_hole() -> Iterator[str]:
    """The URL of a place where no connection is refused, and none is made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # The kernel completes what the backlog takes, and drops the rest.
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for client in waiting:
            client.close()


def _free(deployment: Deployment) -> bool:
    """Whether the sessions wait at the gate and nowhere else."""
    look = deployment.look()
    waiting = look.state is State.OPEN or deployment.gate.status().pause_until is not None
    return waiting and look.held > 0 and not (look.leases or look.ready or look.sleeping)


def _idle(deployment: Deployment) -> bool:
    """Whether no worker has anything to do between two probes, however often one looks.

    A session waits at the gate again a moment before its worker knows that the task has ended. Not
    every answer of a worker arrives: where one is missing, all are asked again.
    """
    probes = deployment.probes()
    inspect = deployment.app.control.inspect(timeout=5.0, limit=len(deployment.workers))
    for look in 5 * (inspect.active, inspect.reserved):
        found = look() or {}
        if len(found) < len(deployment.workers) or any(found.values()):
            return False
    return _free(deployment) and deployment.probes() == probes


def _calls(deployment: Deployment, outage: Outage) -> int:
    """Calls so far: as the stand-in counts them or, when it is gone, the gate."""
    return deployment.gate.status().counters["calls"] if outage.forgets else deployment.calls()


def _statuses(honcho: HonchoServer, status: str) -> int:
    found: int = honcho.stats()["statuses"].get(status, 0)
    return found


def _probing(deployment: Deployment) -> int:
    """Process id of the worker that makes the probe, 0 while there is none."""
    look = deployment.look()
    if look.state is not State.PROBING or look.calls == 0:
        return 0
    store = deployment.store
    leased: Any = store.client.zrange(store.names.leases, 0, -1)
    for session in leased:
        worker: Any = store.client.hget(store.names.session(session.decode())[0], "worker")
        if worker:
            return int(worker.rpartition(b":")[2])
    return 0
