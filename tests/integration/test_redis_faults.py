"""Gateways and workers on a Redis that fails: nothing lost, nothing twice, all in order."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hermes_tasks import StillSyncing, TurnSync
from hermes_tasks.testing.audit import Audit, audit
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from tests.integration.test_gateway import start_gateway

pytestmark = pytest.mark.chaos

SESSIONS = 6
LEASE = 2.0
#: How long clients wait for Redis, in seconds; the defaults are ten and more times as long.
PATIENCE = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
#: A call to Honcho is over soon, what a worker leaves is soon taken up, no session is ever full.
SHORT: dict[str, Any] = {
    "lease_seconds": LEASE,
    "timeout_ceiling": 1,
    "landing_seconds": 0.5,
    "backlog_limit": 100_000,
}
#: Seconds until all is written once Redis is well, on a busy machine.
DONE = 40.0


def deployed_settings() -> dict[str, str]:
    """What every deployment of ours tells its Redis."""
    file = Path(__file__).parents[2] / "deploy" / "redis" / "redis.conf"
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(maxsplit=1) for line in lines)


def start_redis() -> Server:
    settings = deployed_settings()
    assert settings["appendfsync"] == "everysec"
    return EmbeddedValkey(config=settings).start()


@pytest.fixture(scope="module")
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Server]:
    """The Redis of all tests here, which each leaves well; of others only its file is left."""
    with start_redis() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(
    redis_server: Server, honcho: HonchoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Two workers of two slots, for which a call to Honcho is over soon."""
    logs = tmp_path_factory.mktemp("logs")
    with Deployment(
        redis_server, honcho, logs=logs, broker_options=PATIENCE, **SHORT
    ) as deployment:
        options = {"HERMES_TASKS_BROKER_OPTIONS": json.dumps(PATIENCE)}
        deployment.start(2, "-P", "threads", "-c", "2", **options)
        yield deployment


@pytest.fixture
def idle(honcho: HonchoServer, tmp_path: Path) -> Iterator[tuple[Server, Deployment]]:
    """A Redis that nobody has used, and a deployment without a worker yet."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with start_redis() as server, Deployment(server, honcho, logs=logs, **SHORT) as deployment:
        yield server, deployment


class Gateway:
    """A gateway, and somebody who talks to it all the time in sessions that he shares."""

    def __init__(self, name: str, deployment: Deployment, directory: Path) -> None:
        self.name = name
        self._sessions = [f"{directory.parent.name}-{index}" for index in range(SESSIONS)]
        self.sync = TurnSync(settings=deployment.settings, workspace="w", outbox_dir=directory)
        # As everything in these tests, less patient than in life.
        self.sync._publisher._sender.link._answer_seconds = 1.0
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.slowest = 0.0
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why it sends nothing; empty if it does."""
        return self.sync._publisher.trouble or ""

    def stop(self) -> None:
        self._silent.set()
        self._thread.join()

    def flush(self) -> None:
        for session in self.sent:
            assert self.sync.flush(session=session, timeout=DONE)

    def _talk(self) -> None:
        number = 0
        while not self._silent.wait(0.003):
            session, turn_id = self._sessions[number % SESSIONS], f"{self.name}-{number}"
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
    # Given gateways and workers at work on a Redis with the settings of deploy/redis,
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


def test_flush_does_not_take_what_redis_has_forgotten_for_written(
    idle: tuple[Server, Deployment], honcho: HonchoServer, tmp_path: Path
) -> None:
    # Given a Redis that has accepted turns, and has lost them since with its last second,
    redis_server, deployment = idle
    with TurnSync(settings=deployment.settings, workspace="w", outbox_dir=tmp_path / "o") as sync:
        kept = redis_server.written
        for number in range(3):
            sync.sync_turn(session="s", messages=[{"peer": "igor", "content": str(number)}])
        wait_until(lambda: not sync.pending, 10.0, "the turns to be accepted")
        redis_server.lose_power(kept)
        redis_server.start()
        # I expect flush to wait until they are there again, and written
        with pytest.raises(StillSyncing) as caught:
            sync.flush(session="s", timeout=1.5)
        assert caught.value.waiting == 3
        deployment.start(1, "-P", "threads", "-c", "1")
        assert sync.flush(session="s", timeout=DONE)
        assert [entry["content"] for entry in honcho.log("s")] == ["0", "1", "2"]


def test_a_gateway_that_dies_with_its_redis_leaves_what_that_has_forgotten(
    idle: tuple[Server, Deployment], honcho: HonchoServer, tmp_path: Path
) -> None:
    redis_server, deployment = idle
    # Given a gateway that is killed when Redis has accepted its turns,
    kept = redis_server.written
    with start_gateway(deployment.settings, tmp_path, 0, 5, session="t") as process:
        wait_until(lambda: accepted(deployment) == 5, 20.0, "the turns to be accepted")
        process.kill()
    # and a Redis that has lost them since,
    redis_server.lose_power(kept)
    redis_server.start()
    # I expect the next gateway to find them all, and to send them
    deployment.start(1, "-P", "threads", "-c", "1")
    with TurnSync(settings=deployment.settings, workspace="w", outbox_dir=tmp_path) as sync:
        assert sync.flush(session="t", timeout=DONE)
    assert [entry["content"] for entry in honcho.log("t")] == ["0", "1", "2", "3", "4"]


def test_a_redis_that_does_not_answer_for_longer_than_anybody_waits(
    gateways: list[Gateway], deployment: Deployment, honcho: HonchoServer, redis_server: Server
) -> None:
    # Given gateways and workers at work on a Redis,
    wait_for_accepted(deployment, 100)
    # if it takes connections and commands, and answers none of them, then goes on,
    redis_server.pause()
    wait_until(lambda: all(g.trouble for g in gateways), 10.0, "the gateways to notice")
    time.sleep(PATIENCE["socket_timeout"] + LEASE)
    redis_server.resume()
    wait_for_accepted(deployment, 200)
    # I expect every turn in Honcho once, and in order
    found = all_written(gateways, honcho)
    assert found.is_clean, found
    # and nobody to have waited for it who gave a gateway a turn
    assert max(gateway.slowest for gateway in gateways) < 0.5


def test_a_redis_that_reads_its_file_for_a_while(
    gateways: list[Gateway], deployment: Deployment, honcho: HonchoServer, redis_server: Server
) -> None:
    """It answers LOADING to whatever it is asked, as one does that has much to read."""
    client = deployment.store.client
    with client.pipeline(transaction=False) as filling:
        for number in range(3000):
            filling.set(f"filling:{number}", "")
        filling.execute()
    client.bgrewriteaof()
    wait_for_accepted(deployment, 100)
    wait_until(
        lambda: not client.info("persistence")["aof_rewrite_in_progress"], 10.0, "its new file"
    )
    redis_server.kill()
    # Slowly, and with a look at its clients now and then.
    redis_server.configure("key-load-delay", 500)
    redis_server.configure("loading-process-events-interval-bytes", 1024)
    refused: list[str] = []
    reading = threading.Thread(target=redis_server.start)
    reading.start()
    while reading.is_alive():
        try:
            client.ping()
        except redis.RedisError as error:
            refused.append(type(error).__name__)
        time.sleep(0.05)
    reading.join()
    assert "BusyLoadingError" in refused
    redis_server.configure("key-load-delay", 0)
    wait_for_accepted(deployment, 100)
    found = all_written(gateways, honcho)
    assert found.is_clean, found


def test_a_redis_that_takes_nothing_new_for_a_while(
    gateways: list[Gateway], deployment: Deployment, honcho: HonchoServer
) -> None:
    client = deployment.store.client
    wait_for_accepted(deployment, 50)
    # Given a Redis whose memory is full,
    client.config_set("maxmemory", 1)
    # I expect the gateways to say so, and to keep what they are given,
    wait_until(
        lambda: all("memory is full" in g.trouble for g in gateways), 10.0, "the gateways to say so"
    )
    # and what was accepted to be written all the same
    wait_until(lambda: deployment.look().is_quiet, 20.0, "what was accepted to be written")
    assert all(gateway.sync.pending for gateway in gateways)
    # if it has room again, has forgotten its scripts in the middle of everything,
    client.config_set("maxmemory", 0)
    wait_for_accepted(deployment, 50)
    client.script_flush()
    wait_for_accepted(deployment, 50)
    # and becomes a replica for a while, as the old master does after a failover,
    client.replicaof("127.0.0.1", 1)
    wait_until(
        lambda: all("replica" in g.trouble for g in gateways), 10.0, "the gateways to say so"
    )
    client.replicaof("NO", "ONE")
    wait_for_accepted(deployment, 100)
    # I expect every turn in Honcho once, and in order
    found = all_written(gateways, honcho)
    assert found.is_clean, found
