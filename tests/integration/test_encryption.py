"""Encryption at rest: who lacks a key waits and says so, keys change while turns are on their way,
and outside gateways and workers nobody can read what was said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet

from hermes_tasks import TurnSync
from hermes_tasks.cli import main
from hermes_tasks.config import Settings
from hermes_tasks.sealing import fingerprint
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.keys import Names
from tests.conftest import StartWorker
from tests.marker import Marker

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
S = "default:w:s"


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


@pytest.fixture
def marker() -> Marker:
    return Marker()


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix))


def gateway(settings: Settings, keys: str, outbox: Path) -> TurnSync:
    return TurnSync(
        settings=Settings.load(
            **settings.model_dump(exclude={"encryption_keys", "outbox_dir"}),
            encryption_keys=keys,
            outbox_dir=outbox,
        )
    )


def say(sync: TurnSync, *texts: str) -> None:
    for text in texts:
        sync.sync_turn(workspace="w", session="s", messages=[{"peer": "p", "content": text}])


def is_sent(sync: TurnSync) -> bool:
    return sync.pending == 0


def operate(settings: Settings, *command: str, keys: str = "") -> Result:
    env = {
        "HERMES_TASKS_BROKER_URL": settings.broker_url,
        "HERMES_TASKS_PREFIX": settings.prefix,
        "HERMES_TASKS_ENCRYPTION_KEYS": keys,
        "COLUMNS": "500",  # what else runs in this process may have set it
    }
    return CliRunner(env=env).invoke(main, command)


def test_turns_wait_for_the_key_and_are_written_in_order_while_keys_change(
    worker: StartWorker,
    honcho: HonchoServer,
    settings: Settings,
    store: SessionStore,
    redis_client: redis.Redis,
    marker: Marker,
    tmp_path: Path,
) -> None:
    outbox = tmp_path / "outbox"
    texts = [f"{marker.text} {number}" for number in range(6)]
    with gateway(settings, OLD, outbox) as sync:
        say(sync, *texts[:2])
        wait_until(partial(is_sent, sync), 10, "the turns to be sent")
    assert marker.files_with_it([outbox]) == set()
    with gateway(settings, f"{NEW},{OLD}", outbox) as sync:
        say(sync, *texts[2:4])
        wait_until(partial(is_sent, sync), 10, "the turns to be sent")
        assert marker.keys_with_it(redis_client) == set()

        # One key of two: what it opens is written, and nothing else, nor after it.
        env = {"HONCHO_URL": honcho.url, "HERMES_TASKS_ENCRYPTION_KEYS": OLD}
        lacking = worker("-c", "1", "--without-mingle", env=env)
        wait_until(lambda: len(honcho.log("s")) == 2, 20, "what it has the key for")
        wait_until(lambda: store.counters().get("without_key"), 20, "the session to be put off")
        said = re.findall(r"ERROR.*No turn is lost, but some wait: (.*)", lacking.log)
        (complaint,) = said
        assert complaint == (
            f"turns are sealed with the key {fingerprint(NEW)}, but HERMES_TASKS_ENCRYPTION_KEYS "
            f"has {fingerprint(OLD)}: add that key"
        )
        assert complaint in operate(settings, "sessions", "show", S).output.replace("\n", " ")
        assert lacking.stop() == 0

        env["HERMES_TASKS_ENCRYPTION_KEYS"] = f"{OLD},{NEW}"
        having = worker("-c", "1", "--without-mingle", env=env)
        say(sync, *texts[4:])
        sync.flush(workspace="w", session="s", timeout=30.0)
    assert [entry["content"] for entry in honcho.log("s")] == texts
    assert store.dead_letters() == []
    assert not marker.is_in(lacking.log + having.log)


def test_what_another_gateway_left_is_sent_sealed_whether_or_not_it_was_and_whoever_has_the_key(
    make_server: Callable[..., Server], prefix: str, marker: Marker, tmp_path: Path
) -> None:
    server = make_server()
    settings = Settings(broker_url=server.url, prefix=prefix)
    server.kill()
    left = {"": NEW, NEW: ""}
    for before in left:
        with gateway(settings, before, tmp_path / (before or "none")) as sync:
            say(sync, marker.text)
            sync.close(0)
    server.start()
    for before, after in left.items():
        with gateway(settings, after, tmp_path / (before or "none")) as sync:
            wait_until(partial(is_sent, sync), 10, "what was left to be sent")
    with server.client() as client:
        store = SessionStore(client, Names(prefix))
        assert store.progress(S).waiting == 2
        assert marker.keys_with_it(client) == set()


def test_a_sealed_dead_letter_is_shown_to_who_has_its_key_and_retried_by_anybody(
    settings: Settings, store: SessionStore, marker: Marker, tmp_path: Path
) -> None:
    with gateway(settings, OLD, tmp_path) as sync:
        say(sync, marker.text)
        wait_until(partial(is_sent, sync), 10, "the turn to be sent")
    number = int(store.client.zscore(store.names.ready, S) or 0)
    claim = store.claim(S, number, "t", "worker")
    assert claim is not None
    turn_id = claim.items[0].id
    store.bury(S, "t", turn_id, reason="poison")
    store.complete(S, "t", Outcome.ENDED)
    assert marker.keys_with_it(store.client) == set()

    opened = operate(settings, "dead", "show", turn_id, "--content", keys=f"{NEW},{OLD}")
    assert opened.exit_code == 0
    assert f'"content": "{marker.text}"' in opened.stdout
    for keys in ("", NEW):
        closed = operate(settings, "dead", "show", turn_id, "--content", keys=keys)
        assert closed.exit_code == 2
        assert closed.stderr.startswith(f"error: turns are sealed with the key {fingerprint(OLD)}")
        assert closed.stderr.count("\n") == 1
    assert operate(settings, "dead", "retry", turn_id).exit_code == 0
    assert store.progress(S).waiting == 1
