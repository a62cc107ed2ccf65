"""``hermes-tasks dead`` and ``check`` as an operator meets them, at three in the morning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from hermes_tasks import TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.gate.check import Check
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.keys import Names
from tests.conftest import StartWorker
from tests.integration.commands import Commands
from tests.integration.test_cli import assert_one_line, hermes_tasks

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SECRET = "a word that nobody should read"
S = "default:w:[bold]s"


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix))


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


@pytest.fixture
def run(settings: Settings) -> Commands:
    return Commands(settings)


def give_up(store: SessionStore, *ids: str, reason: str = "given_up", session: str = S) -> None:
    """Push messages, and make dead letters of them."""
    for id in ids:
        store.push(session, json.dumps({"body": SECRET}), id=id)
    for id in ids:
        number = store.client.zscore(store.names.ready, session)
        assert store.claim(session, int(number or 0), "t", "worker")
        store.note(session, "t", "Overloaded: 503")
        assert store.bury(session, "t", id, reason=reason, detail="Overloaded: 503") is not None
        store.complete(session, "t", Outcome.ENDED)


def send(sync: TurnSync, text: str) -> str:
    """Send a turn, and wait until it is written or given up; its id."""
    message = {"peer": "p", "content": text}
    receipt = sync.sync_turn(workspace="w", session="s", messages=[message])
    sync.flush(workspace="w", session="s", timeout=20.0)
    return receipt.turn_id


# -- dead letters ---------------------------------------------------------------------------------


def test_a_turn_that_honcho_refused_is_found_shown_and_written_after_all(
    run: Commands, worker: StartWorker, honcho: HonchoServer, settings: Settings
) -> None:
    honcho.control(fail=422, times=1)
    worker("-c", "1", env={"HONCHO_URL": honcho.url})
    with TurnSync(settings=settings) as sync:
        turn_id = send(sync, SECRET)
        listed = run("dead", "list")
        shown = run("dead", "show", turn_id)
        assert (listed.exit_code, shown.exit_code) == (0, 0)
        assert turn_id in listed.stdout
        assert "poison: " in listed.stdout
        assert SECRET not in listed.stdout + shown.stdout
        assert SECRET in run("dead", "show", turn_id, "--content").stdout
        assert SECRET in json.dumps(run.json("dead", "show", turn_id, "--content"))
        assert "dead letters: 1." in run("check").stdout

        send(sync, "later")
        retried = run("dead", "retry", turn_id)
        assert retried.exit_code == 0
        assert "at the end of its session" in retried.stdout
        wait_until(lambda: len(honcho.log("s")) == 2, 20, "it to be written")
    assert [entry["content"] for entry in honcho.log("s")] == ["later", SECRET]
    assert run.json("dead", "list") == []


def test_letters_are_listed_by_session_and_reason_and_up_to_a_limit(
    run: Commands, store: SessionStore
) -> None:
    assert run("dead", "list").stdout == "No dead letters.\n"
    give_up(store, "1", "2")
    give_up(store, "3", reason="poison", session="default:w:other")

    def turns(*options: str) -> list[str]:
        return [letter["turn"] for letter in run.json("dead", "list", *options)]

    assert turns() == ["3", "2", "1"]
    assert turns("--session", S) == ["2", "1"]
    assert turns("--reason", "poison") == ["3"]
    assert turns("--limit", "1") == ["3"]
    table = run("dead", "list", "--limit", "2").stdout
    assert "given_up: Overloaded: 503" in table
    assert S in table
    assert "More: --cursor " in table
    cursor = table.rpartition(" ")[2].strip()
    assert turns("--cursor", cursor) == ["1"]
    (letter,) = run.json("dead", "show", "2")
    assert letter["trace"][0].endswith(" Overloaded: 503")


def test_all_are_retried_in_order_and_what_stays_is_said(
    run: Commands, store: SessionStore
) -> None:
    give_up(store, "1", "2")
    assert store.push(S, "queued anew", id="1").status == "accepted"
    result = run("dead", "retry", "--all")
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert "turn 1: stays: its turn is queued already" in first
    assert "turn 2: at its old place" in second
    assert "1 not retried" in result.stderr
    assert [letter["turn"] for letter in run.json("dead", "list")] == ["1"]


def test_letters_are_dropped_by_name_by_age_or_all(run: Commands, store: SessionStore) -> None:
    give_up(store, "1", "2", "3")
    assert run("dead", "purge", "2", "--yes").stdout == "1 dropped\n"
    assert run("dead", "purge", "--older-than", "7d", "--yes").stdout == "0 dropped\n"
    assert run("dead", "purge", "--all", "--reason", "poison", "--yes").stdout == "0 dropped\n"
    assert run("dead", "purge", "--all", "--yes").stdout == "2 dropped\n"
    assert store.counters()["dead_purged"] == 3


def test_letters_are_dropped_for_good_only_after_asking(run: Commands, store: SessionStore) -> None:
    give_up(store, "1")
    # Where nobody can be asked it is one line, and wrong usage,
    result = run("dead", "purge", "--all")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: nobody is there to be asked")
    assert len(run.json("dead", "list")) == 1
    # and a program is told what was done as a program likes it.
    assert run.json("dead", "purge", "--all", "--yes") == {"dropped": 1}


@pytest.mark.parametrize(("answer", "status", "said"), [("n", 1, ""), ("y", 0, '{"dropped":1}')])
def test_somebody_at_a_terminal_is_asked(
    run: Commands, store: SessionStore, settings: Settings, answer: str, status: int, said: str
) -> None:
    give_up(store, "1")
    keyboard, terminal = os.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as keys, os.fdopen(terminal) as stdin:
        asked = subprocess.Popen(
            [Path(sys.executable).with_name("hermes-tasks"), "dead", "purge", "--all", "--json"],
            env=clean_environment()
            | {
                "HERMES_TASKS_BROKER_URL": settings.broker_url,
                "HERMES_TASKS_PREFIX": settings.prefix,
            },
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        keys.write(f"{answer}\n".encode())
        output, errors = asked.communicate(timeout=20)
    assert (asked.returncode, "".join(output.split())) == (status, said)
    assert "Drop 1 of the letters for good? [y/N]" in errors
    assert len(run.json("dead", "list")) == (0 if said else 1)


@pytest.mark.parametrize("command", ["show", "retry", "purge"])
def test_an_unknown_letter_is_one_line_and_nothing_is_done(
    run: Commands, store: SessionStore, command: str
) -> None:
    give_up(store, "1")
    known = [] if command == "show" else ["1"]
    result = run("dead", command, *known, "1-1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is no dead letter 1-1")
    assert result.stderr.count("\n") == 1
    assert len(run.json("dead", "list")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("retry", "1", "--all"),
        ("retry", "1", "--reason", "poison"),
        ("purge",),
        ("purge", "--older-than", "soon"),
        ("purge", "--older-than", "999999999d"),
        ("purge", "--older-than", "1d", "--session", "s"),
        ("show",),
        ("list", "--limit", "0"),
        ("list", "--limit", "9" * 20),
        ("list", "--cursor", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_before_anything_is_done(
    run: Commands, arguments: tuple[str, ...]
) -> None:
    result = run("dead", *arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


@pytest.mark.parametrize("command", [("dead", "list"), ("check",)])
def test_without_redis_it_is_one_line(server_type: type[Server], command: tuple[str, ...]) -> None:
    result = hermes_tasks(*command, HERMES_TASKS_BROKER_URL="redis://127.0.0.1:1/0")
    assert_one_line(result, 3, "redis://127.0.0.1:1/0")


# -- check ----------------------------------------------------------------------------------------


def test_a_sound_deployment_is_said_to_be_sound(run: Commands, store: SessionStore) -> None:
    assert "Sound. Sessions: 0, turns queued: 0, gates: 0, dead letters: 0." in run("check").stdout
    store.push(S, "text", id="1")
    result = run("check")
    assert result.exit_code == 0
    assert "Sessions: 1 (1 ready), turns queued: 1," in result.stdout
    assert run.json("check") == {
        "sessions": {"ready": 1},
        "queued": 1,
        "gates": 0,
        "dead": 0,
        "findings": [],
        "repaired": {},
        "left": 0,
    }


def test_what_is_wrong_is_listed_and_repaired_only_when_told(
    run: Commands, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Check.__init__, "__defaults__", (0.0,))  # between its two looks
    store.push(S, SECRET, id="1")
    store.client.delete(store.names.run)
    store.client.delete(store.names.session(S)[4])
    found = run("check")
    assert found.exit_code == 1
    assert S in found.stdout
    assert "is ready, but not on the run queue" in found.stdout
    assert "Faults: 2. " in found.stdout
    assert store.client.llen(store.names.run) == 0
    repaired = run("check", "--repair")
    assert repaired.exit_code == 0
    assert f"{S}: repaired, now ready, turns queued: 1" in repaired.stdout
    assert repaired.stdout.splitlines()[-1].startswith("Repaired. ")
    assert store.client.llen(store.names.run) == 1
    assert SECRET not in found.stdout + repaired.stdout
