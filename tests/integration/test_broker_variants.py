"""Every way to reach a broker, each with a real gateway and real workers.

Through each of them turns are written in order, a failed write keeps its place, and a worker that
starts anew goes on: over TLS, through a Unix socket, through Sentinel, and under a key prefix. What
cannot be reached is said in a line that repeats.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from click.testing import CliRunner

from hermes_tasks import TurnSync
from hermes_tasks.cli import main
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, RedisServer, Server, Tls
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from tests.conftest import StartWorker

PASSWORD = "sword/fish"
QUOTED = "sword%2Ffish"


@dataclass(frozen=True)
class Broker:
    """A running broker as a deployment reaches it."""

    url: str
    #: A client of the same database, with every right.
    client: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, prefix: str) -> Settings:
        """What a gateway of the deployment is told."""
        return Settings(broker_url=self.url, broker_options=dict(self.options), prefix=prefix)

    def environment(self, prefix: str, honcho: HonchoServer) -> dict[str, str]:
        """What a worker of the deployment is told."""
        return {
            "HERMES_TASKS_BROKER_URL": self.url,
            "HERMES_TASKS_BROKER_OPTIONS": json.dumps(self.options),
            "HERMES_TASKS_PREFIX": prefix,
            "HONCHO_URL": honcho.url,
            # After a failover no write waits long for what the old master's workers called.
            "HERMES_TASKS_TIMEOUT_CEILING": "2",
            "HERMES_TASKS_LANDING_SECONDS": "1",
            "PYTHONWARNINGS": "ignore",
        }


MakeServer = Callable[..., Server]
ClientOf = Callable[[str], redis.Redis]


@pytest.fixture(scope="module")
def _honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


@pytest.fixture
def honcho(_honcho: HonchoServer) -> HonchoServer:
    """A Honcho that remembers nothing yet."""
    _honcho.clear()
    return _honcho


# -- the ways ------------------------------------------------------------------------------------


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    """Makes clients by URL, and closes them at the end."""
    with ExitStack() as clients:
        yield lambda url: clients.enter_context(redis.Redis.from_url(url))


@pytest.fixture
def over_tls(make_server: MakeServer, tls_files: Tls, client_of: ClientOf) -> Broker:
    """Each side shows a certificate, and checks the other's."""
    server = make_server(tls=tls_files, password=PASSWORD, config={"tls-auth-clients": "yes"})
    mine = {"ssl_certfile": tls_files.certificate, "ssl_keyfile": tls_files.key}
    url = f"{server.url.replace('/0?', '/5?')}&{urlencode(mine)}"
    return Broker(url, client_of(url))


@pytest.fixture
def by_socket(make_server: MakeServer, tmp_path: Path, client_of: ClientOf) -> Broker:
    path = tmp_path / "broker.sock"
    server = make_server(password=PASSWORD, config={"unixsocket": str(path)})
    return Broker(
        f"redis+socket://:{QUOTED}@{path}?virtual_host=7",
        client_of(server.url.replace("/0", "/7")),
    )


class Sentinel:
    """A Sentinel with a password of its own, that watches one master, called ``turns``."""

    PASSWORD = "guard"

    def __init__(self, program: Path, directory: Path, master: int) -> None:
        directory.mkdir()
        self.port = _free_port()
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {directory}\nrequirepass {self.PASSWORD}\n"
            f"sentinel monitor turns 127.0.0.1 {master} 1\n"
            f"sentinel auth-pass turns {PASSWORD}\n"
        )
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen([program, configuration, "--sentinel"], stdout=log)

        def knows_the_master() -> bool:
            try:
                with self.client() as client:
                    flags: str = client.sentinel_master("turns")["flags"]
                    return flags == "master"
            except redis.ConnectionError:
                return False

        wait_until(knows_the_master, 10, "Sentinel to know the master")

    def client(self) -> redis.Redis:
        """A client of the Sentinel itself."""
        return redis.Redis(port=self.port, password=self.PASSWORD)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def master(make_server: MakeServer) -> Server:
    return make_server(password=PASSWORD)


@pytest.fixture
def replica(make_server: MakeServer, master: Server) -> Server:
    """Asked for before ``sentinels``, so that they learn of it when they begin."""
    config = {"replicaof": f"127.0.0.1 {master.port}", "masterauth": PASSWORD}
    return make_server(password=PASSWORD, config=config)


@pytest.fixture
def sentinels(master: Server, tmp_path: Path) -> Iterator[list[Sentinel]]:
    """Two Sentinels that watch the master."""
    watching = [Sentinel(master.program(), tmp_path / f"s{i}", master.port) for i in range(2)]
    yield watching
    for sentinel in watching:
        sentinel.kill()


@pytest.fixture
def by_sentinel(master: Server, sentinels: list[Sentinel], client_of: ClientOf) -> Broker:
    # Each URL has the password: Kombu takes all it needs from the one it tries.
    urls = (f"sentinel://:{QUOTED}@127.0.0.1:{sentinel.port}/2" for sentinel in sentinels)
    return Broker(
        ";".join(urls),
        client_of(master.url.replace("/0", "/2")),
        {"master_name": "turns", "sentinel_kwargs": {"password": Sentinel.PASSWORD}},
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- what must hold over each of them ------------------------------------------------------------


def send(sync: TurnSync, sessions: list[str], first: int, last: int) -> None:
    """Send turns ``first`` to ``last`` of each session."""
    for number in range(first, last + 1):
        for session in sessions:
            sync.sync_turn(
                workspace="w", session=session, messages=[{"peer": "p", "content": str(number)}]
            )


def assert_written(sync: TurnSync, honcho: HonchoServer, sessions: list[str], last: int) -> None:
    """Every session ends up holding the turns 1 to ``last``, once each and in order."""
    for session in sessions:
        sync.flush(workspace="w", session=session, timeout=20.0)
        written = [int(entry["content"]) for entry in honcho.log(session)]
        assert written == list(range(1, last + 1))


def transport_shown(worker: WorkerProcess) -> str:
    """The broker's URL in the banner of a worker."""
    found = re.search(r"> transport: +(\S+)", worker.log)
    assert found is not None
    return found[1]


def passwords_in(worker: WorkerProcess) -> list[str]:
    return [line for line in worker.log.splitlines() if PASSWORD in line or QUOTED in line]


#: Spares a worker a second of looking for others.
HASTE = ("--without-mingle",)

WAYS = [
    pytest.param(RedisServer, "over_tls", "rediss://:**@127.0.0.1:", id="rediss"),
    pytest.param(EmbeddedValkey, "by_socket", "redis+socket://:**@/", id="redis+socket"),
]


@pytest.mark.parametrize(("server_type", "way", "shown"), WAYS, indirect=["server_type"])
def test_turns_keep_their_order_over(
    server_type: type[Server],
    way: str,
    shown: str,
    request: pytest.FixtureRequest,
    worker: StartWorker,
    honcho: HonchoServer,
    prefix: str,
) -> None:
    broker: Broker = request.getfixturevalue(way)
    sessions = ["a", "b"]
    # The first write of each session fails; what was sent after it must wait behind it.
    honcho.control(fail=503, times=2)
    environment = broker.environment(prefix, honcho)
    first = worker("-c", "2", env=environment)
    with TurnSync(settings=broker.settings(prefix)) as sync:
        send(sync, sessions, 1, 5)
        assert_written(sync, honcho, sessions, 5)
        first.kill()
        send(sync, sessions, 6, 8)
        second = worker("-c", "2", *HASTE, env=environment)
        assert_written(sync, honcho, sessions, 8)
        for command in (("status",), ("sessions", "list"), ("dead", "list"), ("health",)):
            result = CliRunner(env=environment).invoke(main, command)
            assert result.exit_code == 0, result.output

    for process in (first, second):
        assert transport_shown(process).startswith(shown)
        assert passwords_in(process) == []
        assert "Traceback" not in process.log
    counters = broker.client.hgetall(f"{{{prefix}}}:stats")
    assert counters[b"written"] == b"16"
    assert counters[b"postponed"] == b"2"


# -- deployments beside one another, and Sentinel at work ------------------------------------------


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_two_key_prefixes_in_one_redis_do_not_meet(
    server: Server, worker: StartWorker, honcho: HonchoServer, redis_client: redis.Redis
) -> None:
    here, there = (
        Broker(server.url, redis_client, {"global_keyprefix": name}) for name in ("a:", "b:")
    )
    worker("-c", "1", *HASTE, env=here.environment("same", honcho))
    with (
        TurnSync(settings=here.settings("same")) as a,
        TurnSync(settings=there.settings("same")) as b,
    ):
        send(b, ["theirs"], 1, 3)
        send(a, ["ours"], 1, 3)
        assert_written(a, honcho, ["ours"], 3)
        # Accepted under their prefix, where nobody consumes yet.
        wait_until(
            lambda: redis_client.llen("b:{same}:session:default:w:theirs:waiting") == 3, 5, "b"
        )
        assert honcho.log("theirs") == []
        worker("-c", "1", *HASTE, env=there.environment("same", honcho))
        assert_written(b, honcho, ["theirs"], 3)
    keys: Any = redis_client.keys()
    assert [key for key in keys if not key.startswith((b"a:", b"b:"))] == []


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_a_worker_follows_sentinel_to_the_new_master_and_past_a_dead_sentinel(
    master: Server,
    replica: Server,
    sentinels: list[Sentinel],
    by_sentinel: Broker,
    worker: StartWorker,
    honcho: HonchoServer,
    prefix: str,
) -> None:
    first, second = sentinels
    process = worker("-c", "1", *HASTE, env=by_sentinel.environment(prefix, honcho))
    with TurnSync(settings=by_sentinel.settings(prefix)) as sync:
        send(sync, ["s"], 1, 2)
        assert_written(sync, honcho, ["s"], 2)
        with second.client() as client:
            wait_until(lambda: fails_over(client), 15, "Sentinel to begin a failover")
            wait_until(lambda: master_port(client) == replica.port, 15, "the new master")
        first.kill()
        master.kill()
        # This write fails: its retry, published by a pool process, must find the way too.
        honcho.control(fail=503, times=1)
        send(sync, ["s"], 3, 5)
        assert_written(sync, honcho, ["s"], 5)
    assert process.is_running
    assert transport_shown(process).startswith("sentinel://:**@127.0.0.1:")
    assert passwords_in(process) == []


def fails_over(sentinel: redis.Redis) -> bool:
    """Ask for a failover; false while no replica is known to be good."""
    try:
        return bool(sentinel.sentinel_failover("turns"))
    except redis.ResponseError:
        return False


def master_port(sentinel: redis.Redis) -> int:
    address: Any = sentinel.sentinel_get_master_addr_by_name("turns")
    return int(address[1])


# -- what cannot be reached ------------------------------------------------------------------------

#: How a broker cannot be reached, and what Redis, the network or TLS say to that.
UNREACHABLE = {
    "a wrong password": "invalid username-password pair",
    "no Redis": "Connection refused",
    "no Sentinel": "no Sentinel that answers knows a master 'turns'",
    "a certificate of an unknown authority": "certificate verify failed",
}


@pytest.mark.parametrize("server_type", [RedisServer], indirect=True)
def test_a_worker_that_cannot_reach_its_broker_says_so_in_a_line_and_again(
    make_server: MakeServer, tls_files: Tls, worker: StartWorker, honcho: HonchoServer
) -> None:
    plain, secure = make_server(password=PASSWORD), make_server(tls=tls_files, password=PASSWORD)
    urls = {
        "a wrong password": plain.url.replace(QUOTED, "wrong%2Fpassword"),
        "no Redis": f"redis://:{QUOTED}@127.0.0.1:{_free_port()}/0",
        "a certificate of an unknown authority": secure.url.partition("?")[0],
    }
    urls["no Sentinel"] = urls["no Redis"].replace("redis:", "sentinel:")
    workers = {}
    for case, url in urls.items():
        broker = Broker(url, None, {"master_name": "turns"} if case == "no Sentinel" else {})
        workers[case] = worker("-c", "1", env=broker.environment("p", honcho), wait=False)
    for case, process in workers.items():
        wait_until(partial(said_twice, process, UNREACHABLE[case]), 20, f"two lines about {case}")
        assert process.is_running
        assert "Traceback" not in process.log
        assert "wrong" not in process.log
        assert passwords_in(process) == []


def said_twice(process: WorkerProcess, reason: str) -> bool:
    lines = re.findall(rf"Cannot connect to [^ ]*//:\*\*@[^ ]*: .*{reason}", process.log)
    return len(lines) >= 2


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"HONCHO_URL": ""}, "error: HONCHO_URL is not set: "),
        ({"HERMES_TASKS_BROKER_URL": "amqp://h"}, "error: HERMES_TASKS_BROKER_URL: must start "),
        ({"HERMES_TASKS_BROKER_URL": "sentinel://h"}, "error: sentinel:// needs the name of "),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_a_worker_whose_settings_cannot_be_used_ends_with_one_line_and_status_2(
    given: dict[str, str], line: str, worker: StartWorker
) -> None:
    env = {"HONCHO_URL": "http://127.0.0.1:1", "PYTHONWARNINGS": "ignore"}
    process = worker(env=env | given, wait=False)
    assert process.wait(20) == 2
    assert process.log.startswith(line)
    assert process.log.count("\n") == 1
