"""Flower, as anyone starts it: it sees the queues and every turn, and nothing of what was said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes_tasks import TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from tests.conftest import StartWorker
from tests.integration.flower.server import Flower

pytest.importorskip("flower")

PASSWORD = "swordfish"
SECRET = "xyzzy"
TURNS = 6
ROOT = Path(__file__).parents[3]


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
        flower.wait_ready()
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


def test_flowerconfig_adds_the_tab_to_the_flower_of_any_application() -> None:
    """As Flower reads it: executed, before the server is built. Twice is as good as once."""
    done = python(
        "import flower.urls as f, runpy;"
        f"[runpy.run_path({str(ROOT / 'flowerconfig.py')!r}) for _ in 'ab'];"
        "print([h.name for h in f.handlers if getattr(h, 'name', None)].count('sessions'))"
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_without_flower_one_line_says_what_to_install() -> None:
    done = python(
        "import sys; sys.modules['flower'] = None;"
        "from hermes_tasks.ops import flower; flower.install()"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'hermes-tasks[flower]'")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says of some code."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def ended(flower: Flower) -> list[str]:
    """Ids of the tasks that succeeded."""
    return [id for id, task in flower.tasks().items() if task["state"] == "SUCCESS"]
