"""Gateways and workers together on a Redis that fails: nothing lost, nothing twice, all in order."""

from __future__ import annotations

import json
import re
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hermes_tasks import TurnSync
from hermes_tasks.testing.audit import Audit, audit
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True),
]

SESSIONS = 6
#: How long clients wait for Redis, in seconds; the defaults are ten times as long.
PATIENCE = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
#: Seconds until all is written once Redis is well, on a busy machine.
DONE = 40.0


def compose_settings() -> dict[str, str]:
    """What the compose file tells its Redis, but for the password."""
    compose = Path(__file__).parents[2] / "docker-compose.yml"
    (command,) = re.findall(r"exec redis-server (.*?)'\n", compose.read_text(), re.DOTALL)
    words = shlex.split(command)
    given = zip(words[::2], words[1::2], strict=True)
    return {name.removeprefix("--"): value for name, value in given if name != "--requirepass"}


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def redis_server(make_server: Callable[..., Server]) -> Server:
    settings = compose_settings()
    assert settings["appendfsync"] == "everysec"
    return make_server(config=settings)


@pytest.fixture
def deployment(redis_server: Server, honcho: HonchoServer, tmp_path: Path) -> Iterator[Deployment]:
    """Two workers of two slots, for which a call to Honcho is over soon."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with Deployment(
        redis_server,
        honcho,
        logs=logs,
        lease_seconds=2,
        timeout_ceiling=1,
        landing_seconds=0.5,
        broker_options=PATIENCE,
    ) as deployment:
        options = {"HERMES_TASKS_BROKER_OPTIONS": json.dumps(PATIENCE)}
        deployment.start(2, "-P", "threads", "-c", "2", **options)
        yield deployment


class Gateway:
    """A gateway, and somebody who talks to it all the time in sessions that he shares."""

    def __init__(self, name: str, deployment: Deployment, directory: Path) -> None:
        self.name = name
        self.sync = TurnSync(settings=deployment.settings, workspace="w", outbox_dir=directory)
        # As everything in these tests, less patient than in life.
        self.sync._publisher._sender.link._answer_seconds = 1.0
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.slowest = 0.0
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def stop(self) -> None:
        self._silent.set()
        self._thread.join()

    def flush(self) -> None:
        for session in self.sent:
            assert self.sync.flush(session=session, timeout=DONE)

    def _talk(self) -> None:
        number = 0
        while not self._silent.wait(0.003):
            session, turn_id = f"s{number % SESSIONS}", f"{self.name}-{number}"
            begun = time.perf_counter()
            self.sync.sync_turn(
                session=session,
                messages=[{"peer": "igor", "content": f"{number}"}],
                turn_id=turn_id,
            )
            self.slowest = max(self.slowest, time.perf_counter() - begun)
            self.sent[session].append(turn_id)
            number += 1


@pytest.fixture
def gateways(deployment: Deployment, tmp_path: Path) -> Iterator[list[Gateway]]:
    """Two gateways, each with its own outbox, that are talked to."""
    made = [Gateway(name, deployment, tmp_path / name) for name in "ab"]
    yield made
    for gateway in made:
        gateway.stop()
        gateway.sync.close(0)


def all_written(gateways: list[Gateway], honcho: HonchoServer) -> Audit:
    """Fall silent and wait for the end; what Honcho has of each gateway's turns."""
    for gateway in gateways:
        gateway.stop()
    total = Audit()
    for gateway in gateways:
        gateway.flush()
        stored = {
            session: [
                turn
                for turn in (entry["metadata"]["turn_id"] for entry in honcho.log(session))
                if turn.startswith(f"{gateway.name}-")
            ]
            for session in gateway.sent
        }
        total += audit(gateway.sent, stored)
    return total


def accepted(deployment: Deployment) -> int:
    return deployment.store.counters().get("accepted", 0)


def wait_for_accepted(deployment: Deployment, more: int) -> None:
    target = accepted(deployment) + more
    wait_until(lambda: accepted(deployment) >= target, 20.0, f"{more} more turns to be accepted")


def test_a_redis_that_loses_its_last_second_loses_no_turn(
    gateways: list[Gateway], deployment: Deployment, honcho: HonchoServer, redis_server: Server
) -> None:
    # Given gateways and workers at work on a Redis with the compose file's settings,
    wait_for_accepted(deployment, 100)
    # if its host loses power, and the file what had not reached the disk,
    kept = redis_server.written
    known = accepted(deployment)
    wait_for_accepted(deployment, 100)
    redis_server.lose_power(kept)
    redis_server.start()
    assert accepted(deployment) <= known
    # and work goes on,
    wait_for_accepted(deployment, 200)
    # I expect every turn that a gateway took in Honcho once, and in order
    found = all_written(gateways, honcho)
    assert found.is_clean, found
    assert found.written > 300
    print(found, "slowest sync_turn", max(gateway.slowest for gateway in gateways))
