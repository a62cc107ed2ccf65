"""pytest-celery's ``celery_setup``, on local processes instead of containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.nodes import LocalServer, LocalWorker
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.workers import WorkerProcess

BROKER, BACKEND = 0, 1


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[Server]:
    """A server of the test's own: the test may kill it."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def celery_broker_cluster(redis_server: Server) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(LocalServer(redis_server, BROKER)))


@pytest.fixture
def celery_backend_cluster(redis_server: Server) -> CeleryBackendCluster:
    return CeleryBackendCluster(CeleryTestBackend(LocalServer(redis_server, BACKEND)))


@pytest.fixture
def celery_worker_cluster_config(
    celery_broker_cluster: CeleryBrokerCluster, celery_backend_cluster: CeleryBackendCluster
) -> dict[str, Any]:
    return {
        "celery_broker_cluster_config": celery_broker_cluster.config(),
        "celery_backend_cluster_config": celery_backend_cluster.config(),
    }


@pytest.fixture
def celery_worker_cluster(
    celery_setup_config: dict[str, Any],
    celery_setup_app: Celery,
    honcho: HonchoServer,
    tmp_path: Path,
) -> Iterator[CeleryWorkerCluster]:
    """Two workers, as two machines would run them."""
    nodes, processes = [], []
    for number in (1, 2):
        container = LocalWorker(f"worker{number}")
        process = WorkerProcess(
            [*["--pool", "threads", "--concurrency", "4"], *container.hostname_option()],
            env={
                "HERMES_TASKS_BROKER_URL": celery_setup_config["broker_url"],
                "HERMES_TASKS_LEASE_SECONDS": "2",
                "HERMES_TASKS_TIMEOUT_CEILING": "4",
                "HERMES_TASKS_LANDING_SECONDS": "1",
                "CELERY_RESULT_BACKEND": celery_setup_config["result_backend"],
                "HONCHO_URL": honcho.url,
            },
            log=tmp_path / f"{container.name}.log",
        )
        processes.append(process)
        nodes.append(CeleryTestWorker(container.run(process), app=celery_setup_app))
    cluster = CeleryWorkerCluster(*nodes)
    try:
        for process in processes:
            process.launch()
        assert all(node.ready() for node in nodes)
        yield cluster
    finally:
        for node in nodes:
            node.teardown()


class Setup(CeleryTestSetup):  # type: ignore[misc,unused-ignore]
    """A setup whose app is ours: it knows how turns travel."""

    @classmethod
    def create_setup_app(
        cls,
        celery_setup_config: dict[str, Any],
        celery_setup_app_name: str,  # noqa: ARG003
    ) -> Celery:
        settings = Settings(broker_url=celery_setup_config["broker_url"], lease_seconds=2)
        return make_app(settings, backend=celery_setup_config["result_backend"])


@pytest.fixture
def celery_setup_app(celery_setup_app: Celery) -> Iterator[Celery]:
    """The application, which closes what it has asked for results with."""
    yield celery_setup_app
    celery_setup_app.backend.client.connection_pool.disconnect()


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return Setup
