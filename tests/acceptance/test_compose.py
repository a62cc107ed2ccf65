"""The services of docker-compose.yml, run without an engine.

Commands, settings, users and health checks are those of the file; only addresses are of this host.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import redis

from hermes_tasks import TurnSync
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment
from tests.compose import PROJECT, new_environment, read_compose

OURS = ("redis", "worker", "flower", "exporter")

pytestmark = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="redis-server is not installed"
)


class Service:
    """A service of the file, as a process."""

    def __init__(self, told: dict[str, Any], log: Path) -> None:
        command = told["command"]
        words = shlex.split(command) if isinstance(command, str) else command
        self._env = clean_environment() | told["environment"]
        kind, *check = told["healthcheck"]["test"]
        self._check = ["sh", "-c", *check] if kind == "CMD-SHELL" else check
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [_program(words[0]), *words[1:]],
                env=self._env,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_healthy(self) -> None:
        """Wait until its own health check says so."""
        wait_until(lambda: self.is_healthy, 60, f"{self._log.stem} to be healthy; see {self._log}")

    @property
    def is_healthy(self) -> bool:
        assert self.process.poll() is None, self._log.read_text(encoding="utf-8")
        program, *words = self._check
        check = subprocess.run(
            [_program(program), *words], env=self._env, capture_output=True, timeout=30, check=False
        )
        return check.returncode == 0


def _program(name: str) -> str:
    """Ours are beside the interpreter, as in the image."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as running:
        yield running


@pytest.fixture
def environment(honcho: HonchoServer) -> dict[str, str]:
    return new_environment(honcho.url)


@pytest.fixture
def ports() -> dict[str, int]:
    """Free ports for those that the services have in their containers."""
    with ExitStack() as stack:
        probes = {name: stack.enter_context(socket.socket()) for name in ("6379", "5555", "9780")}
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in probes.items()}


@pytest.fixture
def services(
    environment: dict[str, str], ports: dict[str, int], tmp_path: Path
) -> Iterator[dict[str, Service]]:
    """Redis, a worker, Flower and the exporter."""
    told = {name: read_compose(environment)["services"][name] for name in OURS}
    told["redis"]["command"] += ["--port", "6379"]
    text = json.dumps(told)
    for there, here in {
        "redis-cli": "redis-cli -p 6379",
        "@redis:6379": "@127.0.0.1:6379",
        "0.0.0.0": "127.0.0.1",
        "/etc/hermes-tasks": str(PROJECT / "deploy" / "redis"),
        **{port: str(free) for port, free in ports.items()},
    }.items():
        text = text.replace(there, here)
    running: dict[str, Service] = {}
    try:
        for name, service in json.loads(text).items():
            directory = tmp_path / name
            directory.mkdir()
            shutil.copy(PROJECT / "celeryconfig.py", directory)
            running[name] = Service(service, directory / f"{name}.log")
            if name == "redis":
                running[name].wait_healthy()
        for service in running.values():
            service.wait_healthy()
        yield running
    finally:
        for service in running.values():
            service.process.kill()
            service.process.wait()


@pytest.fixture
def gateway(
    services: dict[str, Service], environment: dict[str, str], ports: dict[str, int], tmp_path: Path
) -> Iterator[TurnSync]:
    """A gateway on the host, as the file's first lines tell it."""
    password = environment["HERMES_GATEWAY_PASSWORD"]
    url = f"redis://hermes-gateway:{password}@127.0.0.1:{ports['6379']}/0"
    with TurnSync(broker_url=url, outbox_dir=tmp_path / "outbox") as sync:
        yield sync


def say(sync: TurnSync, text: str) -> None:
    sync.sync_turn(session="s", messages=[{"peer": "igor", "content": text}])


def test_a_turn_is_kept_written_and_counted_and_flower_asks_who_is_there(
    gateway: TurnSync, honcho: HonchoServer, environment: dict[str, str], ports: dict[str, int]
) -> None:
    with redis.Redis(
        port=ports["6379"],
        username="hermes-viewer",
        password=environment["HERMES_VIEWER_PASSWORD"],
    ) as client:
        info = client.info()
    assert (info["aof_enabled"], info["maxmemory_policy"]) == (1, "noeviction")

    say(gateway, "hi")
    assert gateway.flush(session="s", timeout=30)
    assert [entry["content"] for entry in honcho.log()] == ["hi"]

    with urllib.request.urlopen(f"http://127.0.0.1:{ports['9780']}/metrics", timeout=10) as answer:
        assert b"hermes_tasks_turns_written_total 1.0\n" in answer.read()
    with pytest.raises(HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{ports['5555']}/", timeout=10)


def test_a_worker_that_is_told_to_stop_finishes_its_call_in_the_time_it_is_given(
    gateway: TurnSync,
    honcho: HonchoServer,
    services: dict[str, Service],
    environment: dict[str, str],
) -> None:
    honcho.control(stall=4.0)
    before = len(honcho.log())
    say(gateway, "bye")
    wait_until(lambda: honcho.stats()["in_flight"] == 1, 30, "a call to be made")
    worker = services["worker"].process

    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    grace = read_compose(environment)["services"]["worker"]["stop_grace_period"]
    assert worker.wait(60) == 0
    assert time.monotonic() - began < float(grace.removesuffix("s"))
    assert [entry["content"] for entry in honcho.log()[before:]] == ["bye"]
    assert gateway.flush(session="s", timeout=5)
