"""The users of ``deploy/redis/users.acl``: refused nothing that they need, and everything else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from redis.exceptions import NoPermissionError, ResponseError

from devtools.acl import PATH, USERS
from hermes_tasks import TurnSync
from hermes_tasks.app import make_app
from hermes_tasks.cli import main
from hermes_tasks.config import Settings
from hermes_tasks.gate import Policy
from hermes_tasks.ops import read_overview
from hermes_tasks.ops.view import View
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import RedisServer, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import Names, SessionStore
from tests.conftest import StartWorker
from tests.integration.flower.server import Flower

PASSWORD = "sword/fish"
QUOTED = "sword%2Ffish"

#: What an operator changes with it, as the user of the workers.
OPERATING = [
    ("sessions", "pause", "default:w:other"),
    ("sessions", "wait", "default:w:s"),
    ("sessions", "drop", "default:w:other", "--yes"),
    ("sessions", "resume", "default:w:other"),
    ("gate", "open", "default:w", "--for", "1s"),
    ("gate", "close", "default:w"),
    ("gate", "reset", "default:w", "--yes"),
    ("dead", "retry", "--all"),
    ("dead", "purge", "--all", "--yes"),
    ("dead", "purge", "--older-than", "1d", "--yes"),
    ("check", "--repair"),
    ("sessions", "pause", "default:w:other"),
    ("sessions", "resume", "default:w:other"),
    ("sessions", "wake", "default:w:other"),
    ("sessions", "wait", "default:w:other", "--timeout", "10"),
    ("sessions", "drop", "default:w:other", "--yes"),
    ("gate", "open", "default:w", "--for", "1h"),
    ("gate", "close", "default:w"),
    ("gate", "reset", "default:w", "--yes"),
]
#: What anybody may look at.
LOOKING = [
    ("status",),
    ("health",),
    ("sessions", "list"),
    ("sessions", "show", "default:w:s"),
    ("sessions", "show", "default:w:waits"),
    ("gate", "show"),
    ("dead", "list"),
    ("dead", "show", "poison"),
]

#: What a user may not do, though others may. In each, ``$p`` stands for ``{prefix}``.
FORBIDDEN = {
    "gateway": (
        "XREVRANGE $p:dead + -",
        "BRPOP $p.run 1",
        "LREM $p:session:a:waiting 1 x",
        "HSET $p:gate:default:w state open",
        "PUBLISH /0.celery.pidbox x",
    ),
    "worker": ("LRANGE celery 0 1", "DEL other", "PUBLISH other x", "SUBSCRIBE other"),
    "viewer": (
        "DEL $p:dead",
        "HSET $p:stats written 1",
        "XDEL $p:dead 1-1",
        "EVAL return(1) 1 $p:dead",
        "SCAN 0",
        "PUBLISH /0.celery.pidbox x",
    ),
    "flower": ("DEL $p:dead", "LPUSH $p.run x", "EVAL return(1) 1 $p:dead", "LRANGE other 0 1"),
}
#: What none of them may.
NOBODY = ("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "ACL LIST", "GET other", "SHUTDOWN")


class Users:
    """A server that has the users, and the ways to it."""

    def __init__(self, server: Server, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self.admin = self.client("admin")

    def url(self, user: str) -> str:
        name = user if user == "admin" else f"hermes-{user}"
        return f"redis://{name}:{QUOTED}@127.0.0.1:{self._server.port}/0"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))

    def settings(self, user: str) -> Settings:
        return Settings(broker_url=self.url(user), prefix=self._prefix)

    def environment(self, user: str) -> dict[str, str]:
        return {
            "HERMES_TASKS_BROKER_URL": self.url(user),
            "HERMES_TASKS_PREFIX": self._prefix,
            "PYTHONWARNINGS": "ignore",
        }

    def refused(self) -> list[tuple[str, str, str]]:
        """What was refused to whom."""
        entries: Any = self.admin.acl_log()
        return [(entry["username"], entry["reason"], entry["object"]) for entry in entries]

    def run(self, user: str, *command: str) -> Any:
        """``hermes-tasks`` as this user."""
        return CliRunner(env=self.environment(user)).invoke(main, command)


@pytest.fixture
def users(make_server: Callable[..., Server], prefix: str, tmp_path: Path) -> Iterator[Users]:
    path = tmp_path / "users.acl"
    environment = {f"{u.name.upper().replace('-', '_')}_PASSWORD": PASSWORD for u in USERS}
    environment |= {"HERMES_TASKS_PREFIX": prefix, "HERMES_ACL_FILE": str(path)}
    subprocess.run([PATH.with_name("start.sh"), "true"], env=os.environ | environment, check=True)
    with path.open("a") as file:
        file.write(f"user admin on >{PASSWORD} ~* &* +@all\n")
    found = Users(make_server(config={"aclfile": str(path)}), prefix)
    yield found
    found.admin.close()


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


# The server of docker-compose.yml. That the other one reads the file alike, the next tests show.
@pytest.mark.parametrize("server_type", [RedisServer], indirect=True)
def test_each_user_is_refused_nothing_it_needs(
    users: Users, worker: StartWorker, honcho: HonchoServer, tmp_path: Path
) -> None:
    honcho.control(fail=422, times=1)
    env = users.environment("worker") | {"HONCHO_URL": honcho.url}
    process = worker("-c", "1", "-E", env=env)
    flower = Flower(users.environment("flower"), tmp_path / "flower.log")
    try:
        wait_until(lambda: "@" in (flower.get("/api/workers?refresh=1") or ""), 20, "Flower")
        with TurnSync(settings=users.settings("gateway"), workspace="w") as sync:
            for turn_id in ("poison", "first", "second"):
                message = {"peer": "p", "content": turn_id}
                sync.sync_turn(session="s", messages=[message], turn_id=turn_id)
                sync.flush(session="s", timeout=20.0)
        assert [entry["content"] for entry in honcho.log("s")] == ["first", "second"]

        # One that nobody writes, so that there is something to look at.
        assert users.run("worker", "sessions", "pause", "default:w:waits").exit_code == 0
        store = SessionStore(users.admin, Names(users.settings("worker").prefix))
        store.push("default:w:waits", "{}", id="waits")
        for command in LOOKING:
            result = users.run("viewer", *command)
            assert result.exit_code == 0, (command, result.output, users.refused())
        # The exporter is a viewer.
        view = View(make_app(users.settings("viewer"), set_as_current=False), "redis://…")
        assert view.ask(lambda store: read_overview(store, Policy())).written == 2
        view.close()
        wait_until(lambda: "second" in flower.tasks(), 20, "Flower to see the turns")
        assert flower.json("/sessions/data")["overview"]["written"] == 2
        assert flower.json("/session/data?id=default:w:waits")["session"]["state"] == "paused"

        app = make_app(users.settings("worker"), set_as_current=False)
        with app.connection_for_write() as connection:
            app.send_task("celery.accumulate", (1,), connection=connection)
            wait_until(lambda: "accumulate" in process.log, 10, "the plain task to run")
            (answer,) = app.control.ping(timeout=5.0, limit=1)
            assert list(answer.values()) == [{"ok": "pong"}]
            app.control.revoke("nobody")
            app.control.purge()
            assert connection.default_channel.sessions.purge("default:w:s") == 0
        (name,) = answers = app.control.inspect(timeout=5.0).conf(with_defaults=True) or {}
        shown = [
            *(str(answers), str(app.control.inspect(timeout=1.0).report())),
            *(flower.get(page) or "" for page in ("/", "/broker", f"/worker/{name}")),
            *(flower.get(page) or "" for page in ("/sessions/data", "/api/session?id=default:w:s")),
            *(users.run("worker", "config", *more).output for more in ((), ("--json",))),
        ]
        for command in OPERATING:
            result = users.run("worker", *command)
            assert result.exit_code == 0, (command, result.output, users.refused())
        wait_until(lambda: len(honcho.log("s")) == 3, 20, "the retried turn to be written")
        assert process.stop() == 0
        assert "Traceback" not in process.log
        assert "Traceback" not in flower.log.read_text()
    finally:
        flower.kill()
    shown += [process.log, flower.log.read_text()]
    assert [text for text in shown if not text or PASSWORD in text or QUOTED in text] == []
    assert users.refused() == []


def test_each_user_is_refused_everything_else(users: Users, prefix: str) -> None:
    allowed = []
    for user, commands in FORBIDDEN.items():
        with users.client(user) as client:
            for command in (*commands, *NOBODY):
                try:
                    client.execute_command(*command.replace("$p", f"{{{prefix}}}").split())
                except NoPermissionError:
                    continue
                allowed.append((user, command))
    assert allowed == []
    # Nor may a script that a viewer brings along.
    change = "return redis.call('DEL', KEYS[1])"
    with users.client("viewer") as client, pytest.raises(ResponseError):
        client.execute_command("EVAL_RO", change, 1, f"{{{prefix}}}:dead")


def test_a_user_without_a_right_is_told_so(users: Users) -> None:
    users.admin.acl_setuser("hermes-viewer", enabled=True, commands=["-evalsha_ro"])
    result = users.run("viewer", "dead", "list")
    assert result.exit_code == 3
    assert "its ACL forbids it" in result.output
