"""A real Hermes with the provider installed, workers, a broker, and a stand-in for Honcho."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hermes_tasks.cli import main
from hermes_tasks.config import Settings, environment_variable
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import Server
from hermes_tasks.testing.workers import WorkerProcess
from tests.integration.hermes.host import Host, forget_client

#: Seconds: of a call to Honcho, at most; in which it may still land after that; between two probes.
CEILING = LANDING = 1.0
PROBE = 0.5


@pytest.fixture(scope="package")
def deployment(
    broker: Server, honcho_of_package: HonchoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A worker that lives through all tests: each has a workspace, and so a gate, of its own."""
    settings = Settings(
        broker_url=broker.url,
        prefix=f"t{uuid.uuid4().hex[:12]}",
        timeout_ceiling=CEILING,
        landing_seconds=LANDING,
        breaker_probe_seconds=PROBE,
    )
    worker = WorkerProcess(
        ["-P", "threads", "-c", "8", "--without-mingle"],
        env={
            "HONCHO_URL": honcho_of_package.url,
            **{
                environment_variable(name): str(getattr(settings, name))
                for name in settings.model_fields_set
            },
        },
        log=tmp_path_factory.mktemp("hermes") / "worker.log",
    )
    try:
        worker.start()
        yield settings
    finally:
        worker.close()


@pytest.fixture
def home(
    deployment: Settings, honcho: HonchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A ``HERMES_HOME`` with the provider installed and Honcho configured."""
    home = tmp_path / "hermes"
    home.mkdir()
    monkeypatch.setenv("HERMES_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HERMES_TASKS_BROKER_URL", deployment.broker_url)
    monkeypatch.setenv("HERMES_TASKS_PREFIX", deployment.prefix)
    configure(home, baseUrl=honcho.url, workspace=f"w{uuid.uuid4().hex[:8]}")
    installed = CliRunner().invoke(main, ["install-plugin"])
    assert installed.exit_code == 0, installed.output
    return home


def configure(home: Path, **settings: Any) -> None:
    """Change the host's ``honcho.json``."""
    path = home / "honcho.json"
    known = json.loads(path.read_text()) if path.exists() else DEFAULTS
    path.write_text(json.dumps(known | settings))


DEFAULTS: dict[str, Any] = {
    "peerName": "igor",
    "sessionStrategy": "per-session",
    "timeout": CEILING,
    # The first turn would wait for what it recalls.
    "firstTurnBaseWait": 0,
    "firstTurnDialecticWait": 0,
}


@pytest.fixture
def begin(home: Path, honcho: HonchoServer) -> Iterator[Callable[..., Host]]:
    """Begins sessions of the host: ``begin("s1", user_id="7", config={"saveMessages": False})``."""
    hosts: list[Host] = []

    def start(session: str = "s1", *, config: dict[str, Any] | None = None, **context: Any) -> Host:
        configure(home, **(config or {}))
        workspace = json.loads((home / "honcho.json").read_text())["workspace"]
        hosts.append(Host(honcho, workspace, session, context))
        return hosts[-1]

    yield start
    honcho.control(reset=True)
    for host in hosts:
        host.manager.shutdown_all()
    forget_client()
