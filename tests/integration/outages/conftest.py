"""Three workers, a broker, and a stand-in for Honcho that has bad days."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import Server
from hermes_tasks.testing.waiting import wait_until
from tests.integration.order.load import check_quiet

#: Seconds: of the common deployment, whose deadline is always the ceiling.
PROBE = 0.4
CEILING = 2.0
LANDING = 1.0
WORKERS = 3
#: In which every turn is written once Honcho is well, on a busy machine.
DONE = 40.0


@pytest.fixture(scope="package")
def _lasting(
    broker: Server, honcho_of_package: HonchoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with Deployment(
        broker,
        honcho_of_package,
        logs=tmp_path_factory.mktemp("outages"),
        breaker_probe_seconds=PROBE,
        timeout_ceiling=CEILING,
        landing_seconds=LANDING,
        lease_seconds=5,
    ) as deployment:
        yield deployment


@pytest.fixture
def deployment(_lasting: Deployment, honcho: HonchoServer) -> Iterator[Deployment]:
    """Three workers of two slots that live through all tests; after each, nothing may be left."""
    deployment = _lasting
    deployment.workers = [worker for worker in deployment.workers if worker.is_running]
    deployment.start(WORKERS - len(deployment.workers))
    yield deployment
    try:
        check_end(deployment)
        # What one test taught the gate is not for the next.
        deployment.store.client.delete(*_own_keys(deployment))
    except BaseException:
        # What is stuck would fail every test after this one.
        for worker in deployment.workers:
            worker.close()
        deployment.store.client.flushdb()
        deployment.sent.clear()
        raise


@pytest.fixture
def deploy(
    broker: Server, honcho: HonchoServer, tmp_path: Path
) -> Iterator[Callable[..., Deployment]]:
    """Makes deployments for this test only, with settings of its own and no worker yet."""
    made: list[Deployment] = []

    def make(*, server: Server = broker, **settings: Any) -> Deployment:
        name = uuid.uuid4().hex[:8]
        logs = tmp_path / f"deployment-{name}"
        logs.mkdir()
        # A prefix and a workspace of its own: neither keys nor messages of another.
        settings = {"prefix": f"t{name}", **settings}
        made.append(Deployment(server, honcho, workspace=f"w-{name}", logs=logs, **settings))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


def check_end(deployment: Deployment, timeout: float = 5.0) -> None:
    """Nothing is leased, asleep, held or ready, and no call or permit outstanding."""
    wait_until(lambda: deployment.look().is_quiet, timeout, "nothing to be on its way")
    check_quiet(deployment.store)
    status = deployment.gate.status()
    assert (status.held, status.calls) == (0, 0)


def _own_keys(deployment: Deployment) -> list[str]:
    names = deployment.store.names
    return [key for key in names.gate(deployment.gate.name) if key != names.gates]


def complaints(log: str) -> list[str]:
    """What a worker says of turns above INFO. That a backend failed, or is back, it may say."""
    said = [line for line in log.splitlines() if re.match(r"\[.*: (WARNING|ERROR|CRITICAL)/", line)]
    return [
        line
        for line in said
        if not re.search(r" default:\S+ (does not answer|answers again)", line)
    ]
