"""Flower, as anyone starts it: it sees the queues and every turn, and nothing of what was said."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from hermes_tasks import TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment
from tests.conftest import StartWorker

pytest.importorskip("flower")

PASSWORD = "swordfish"
SECRET = "xyzzy"
TURNS = 6


class Flower:
    """``celery -A hermes_tasks flower`` as a child process."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.log = log
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "celery", "-A", "hermes_tasks", "flower"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--address=127.0.0.1", f"--port={port}"],
                env=clean_environment() | env | {"FLOWER_UNAUTHENTICATED_API": "true"},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def get(self, path: str) -> str | None:
        """A page, or nothing while there is none."""
        try:
            with urlopen(self.url + path, timeout=10) as response:
                text: str = response.read().decode()
                return text
        except (HTTPError, URLError, ConnectionError):
            return None

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Every task it knows, by id."""
        found: dict[str, dict[str, Any]] = json.loads(self.get("/api/tasks") or "{}")
        return found

    def kill(self) -> None:
        """End it by SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_flower_shows_queues_and_every_turn_and_nothing_of_what_was_said(
    make_server: Callable[..., Server],
    worker: StartWorker,
    honcho: HonchoServer,
    prefix: str,
    tmp_path: Path,
) -> None:
    url = make_server(password=PASSWORD).url
    settings = Settings(broker_url=url, prefix=prefix)
    env = {
        "HERMES_TASKS_BROKER_URL": url,
        "HERMES_TASKS_PREFIX": prefix,
        "HONCHO_URL": honcho.url,
    }
    flower = Flower(env, tmp_path / "flower.log")
    try:
        process = worker("-c", "1", "-E", "-l", "info", env=env)
        wait_until(lambda: prefix in (flower.get("/api/workers?refresh=1") or ""), 20, "Flower")
        # The first write is slow, so the others are one batch behind it.
        honcho.control(latency=0.3)
        with TurnSync(settings=settings) as sync:
            ids = {
                sync.sync_turn(
                    workspace="w", session="s", messages=[{"peer": "p", "content": f"{SECRET} {i}"}]
                ).turn_id
                for i in range(TURNS)
            }
            sync.flush(workspace="w", session="s", timeout=20)
        assert honcho.stats()["calls"]["messages"] < TURNS
        wait_until(lambda: len(ended(flower)) == TURNS, 10, "all turns to have ended in Flower")

        tasks = flower.tasks()
        assert set(tasks) == ids
        assert {task["name"] for task in tasks.values()} == {"hermes_tasks.sync_turn"}
        assert all("messages=1" in task["args"] for task in tasks.values())
        lengths = json.loads(flower.get("/api/queues/length") or "{}")["active_queues"]
        assert {"name": f"{{{prefix}}}.run", "messages": 0} in lengths
        broker = flower.get("/broker") or ""
        assert f"{prefix}}}.run" in broker
        assert "redis://:**@127.0.0.1" in broker
        pages = [flower.get(f"/task/{id}") or "" for id in ids]
        for shown in (json.dumps(tasks), broker, flower.get("/tasks") or "", *pages):
            assert shown
            assert SECRET not in shown
            assert PASSWORD not in shown
        for log in (process.log, flower.log.read_text()):
            assert SECRET not in log
            assert PASSWORD not in log
            assert "Traceback" not in log
    finally:
        flower.kill()


def ended(flower: Flower) -> list[str]:
    """Ids of the tasks that succeeded."""
    return [id for id, task in flower.tasks().items() if task["state"] == "SUCCESS"]
