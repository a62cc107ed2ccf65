"""``hermes-tasks sessions`` and ``celery -A … sessions`` as an operator meets them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
import redis

from hermes_tasks.config import Settings
from hermes_tasks.gate import Policy
from hermes_tasks.gate.check import Check
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.keys import Names
from hermes_tasks.turns import Turn
from tests.integration.commands import Commands
from tests.integration.test_cli import assert_one_line, celery
from tests.integration.test_cli import run as run_process

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SECRET = "a word that nobody should read"
S = "default:default:s"


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix))


@pytest.fixture
def run(settings: Settings) -> Commands:
    return Commands(settings, columns=80)


def send(store: SessionStore, *sessions: str, turns: int = 1) -> None:
    """Push turns to sessions, one session after the other."""
    for session in sessions:
        for number in range(turns):
            store.push(session, json.dumps({"body": SECRET}), id=f"{session}-{number}", size=2)


def fail(store: SessionStore, session: str, *, after_a_call: bool = False) -> None:
    """Let an attempt to write a session fail, so that it sleeps."""
    number = store.client.zscore(store.names.ready, session)
    assert store.claim(session, int(number or 0), "t", "worker")
    if after_a_call:
        assert store.begin(session, "t", 1, 1)
    assert store.postpone(session, "t", 60.0, note="Overloaded: 503", in_doubt=after_a_call)
    store.complete(session, "t", Outcome.ENDED)


def test_sessions_are_listed_page_by_page_the_one_that_lags_most_first(
    run: Commands, store: SessionStore
) -> None:
    assert run("sessions", "list").stdout == "No session has turns to write.\n"
    names = [f"default:w:{number}" for number in range(5)]
    send(store, *names)

    found, cursor = [], ""
    while True:
        page = run.json("sessions", "list", "--limit", "2", "--cursor", cursor)
        found += [row["session"] for row in page["rows"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert found == names
    said = run("sessions", "list", "--limit", "2")
    assert "default:w:1" in said.stdout
    assert "default:w:2 " not in said.stdout
    assert "More: --cursor " in said.stdout
    assert run("sessions", "list", "--state", "sleeping").stdout.startswith("No session")
    for wrong in ("nonsense", "\N{ARABIC-INDIC DIGIT ONE} x"):
        refused = run("sessions", "list", "--cursor", wrong)
        assert refused.exit_code == 2
        assert "--cursor" in refused.stderr


def test_a_session_says_why_it_waits_and_never_what_was_said(
    run: Commands, store: SessionStore
) -> None:
    send(store, S, turns=3)
    # Of a name without a colon the settings say the rest.
    result = run("sessions", "show", "s", "--turns", "2")
    assert result.exit_code == 0
    assert "no worker has run yet" in result.stdout
    assert "no worker has run yet" in run.json("sessions", "show", "s")["waits_for"]
    assert "the oldest 2 of 3" in result.stdout
    found = run.json("sessions", "show", S)
    assert [turn["number"] for turn in found["turns"]] == [1, 2, 3]
    assert found["turns"][0] | {"age": 0} == {
        "number": 1,
        "id": f"{S}-0",
        "size": 2,
        "age": 0,
        "place": "waiting",
    }
    assert SECRET not in result.stdout + json.dumps(found)


def test_a_session_that_nobody_knows_is_one_line(run: Commands) -> None:
    result = run("sessions", "show", "nobody")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "Redis knows no session default:default:nobody" in result.stderr


def test_a_session_can_be_named_as_its_gateway_calls_it(run: Commands, store: SessionStore) -> None:
    # Given a turn that a gateway sent for what it calls telegram:42
    whole = Turn.create("default", "telegram:42", [{"peer": "i", "content": "hi"}]).session_key
    send(store, whole)
    # I expect every command to know which session that is
    assert run.json("sessions", "show", "telegram:42")["session"] == whole
    assert run("sessions", "pause", "telegram:42").stdout == f"{whole}: paused\n"
    assert run.json("sessions", "drop", "telegram:42", "--yes")["session"] == whole
    (letter,) = run.json("dead", "list", "--session", "telegram:42")
    assert letter["session"] == whole
    assert run("sessions", "show", "").exit_code == 2


def test_a_session_that_somebody_has_spoilt_is_shown_and_checked(
    run: Commands, store: SessionStore
) -> None:
    send(store, S, "default:w:other")
    store.client.hset(store.names.session(S)[0], mapping={"attempts": "x", "accepted": "y"})
    store.client.hset(store.names.stats, "spoilt", "z")
    assert len(run.json("sessions", "list")["rows"]) == 2
    assert run.json("sessions", "show", "s")["waiting"] == 1
    assert S in {one.where for one in Check(store, Policy(), settle=0.0).run().findings}


def test_who_pauses_a_session_that_nobody_knows_is_told_so(run: Commands) -> None:
    result = run("sessions", "pause", "telegrm:42")
    assert result.exit_code == 0
    assert "Redis knows no turn of it" in result.stdout


def test_a_hostile_name_is_shown_as_text(run: Commands, store: SessionStore) -> None:
    hostile = "default:w:[bold red]\x1b[31m\n\u202e"
    send(store, hostile)
    for arguments in (["list"], ["show", hostile]):
        said = run("sessions", *arguments).stdout
        assert "[bold red]\\x1b[31m\\n\\u202e" in said
        assert "\x1b" not in said
    assert run.json("sessions", "list")["rows"][0]["session"] == hostile


def test_a_session_is_paused_and_goes_on_when_it_is_resumed(
    run: Commands, store: SessionStore
) -> None:
    send(store, S)
    assert run("sessions", "pause", "s").stdout == f"{S}: paused\n"
    assert run.json("sessions", "list", "--state", "paused")["rows"][0]["paused"] is True
    assert "somebody has paused the session" in run("sessions", "show", "s").stdout
    assert "1 session paused by hand" in run("status").stdout
    assert run.json("sessions", "resume", "s") == {"session": S, "state": "ready"}
    assert run("sessions", "resume", "s").stdout == f"{S}: it was not paused\n"


def test_turns_are_dropped_only_after_asking_and_come_back_from_the_dead_letters(
    run: Commands, store: SessionStore
) -> None:
    send(store, S, turns=2)
    result = run("sessions", "drop", "s")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: nobody is there to be asked")
    assert run.json("sessions", "drop", "s", "--yes", "--reason", "a test") == {
        "session": S,
        "dropped": [f"{S}-0", f"{S}-1"],
        "inflight": 0,
    }
    (letter, _) = run.json("dead", "list", "--reason", "dropped")
    assert letter["detail"] == "a test"
    assert run("dead", "retry", "--all").exit_code == 0
    assert run.json("sessions", "show", "s")["waiting"] == 2


def test_a_session_that_sleeps_is_woken_and_one_in_doubt_says_until_when_it_is_not(
    run: Commands, store: SessionStore
) -> None:
    send(store, S, "default:default:doubtful")
    fail(store, S)
    fail(store, "default:default:doubtful", after_a_call=True)
    assert run.json("sessions", "show", "s")["state"] == "sleeping"
    assert run("sessions", "wake", "s").stdout.startswith(f"{S}: ready")

    result = run("sessions", "wake", "doubtful")
    assert result.exit_code == 1
    assert "stays sleeping: an earlier call to Honcho may still write its turns" in result.stdout


def test_waiting_ends_when_all_is_settled_or_says_what_is_in_the_way(
    run: Commands, store: SessionStore
) -> None:
    send(store, S)
    result = run("sessions", "wait", "s", "--timeout", "0.2")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "1 turn waits to be written" in result.stderr
    assert "no worker has run yet" in result.stderr
    document = json.loads(run("sessions", "wait", "s", "--timeout", "0.2", "--json").stdout)
    assert (document["settled"], document["waiting"]) == (False, 1)

    run("sessions", "drop", "s", "--yes")
    assert run("sessions", "wait", "s").stdout == f"{S}: all is settled\n"


COPIES = """
for number = ARGV[2], ARGV[3] do
  local name, session = ARGV[1] .. number, ARGV[4] .. number
  redis.call('HSET', session, unpack(redis.call('HGETALL', KEYS[1])))
  redis.call('RPUSH', session .. ':waiting', unpack(redis.call('LRANGE', KEYS[2], 0, -1)))
  redis.call('ZADD', KEYS[3], number, name)
  redis.call('ZADD', KEYS[4], number, name)
end
"""


def test_a_hundred_thousand_sessions_make_no_command_slow(
    run: Commands, store: SessionStore
) -> None:
    # Given one session, and copies of it
    send(store, S)
    (hash, _, waiting, *_), names = store.names.session(S), store.names
    copies = store.names.session("default:many:")[0]
    keys = hash, waiting, names.ready, names.lagging
    for first in range(1, 100_000, 5_000):  # Redis answers nobody meanwhile
        store.client.eval(COPIES, len(keys), *keys, "default:many:", first, first + 4_999, copies)
    # I expect each command to take no longer than one can wait for, the first time aside
    for arguments in (["status"], ["sessions", "list"], ["sessions", "show", "s"], ["health"]):
        taken = []
        for _ in range(3):
            begun = time.monotonic()
            result = run(*arguments)
            taken.append(time.monotonic() - begun)
        assert min(taken) < 0.3, arguments
        assert result.exit_code in (0, 1)
    assert "100,001 ready" in run("status").stdout
    assert run.json("sessions", "list")["rows"][0]["session"] == "default:many:1"


def test_celery_has_the_same_commands_for_its_application(
    store: SessionStore, settings: Settings
) -> None:
    send(store, S)
    env = {
        "HERMES_TASKS_BROKER_URL": settings.broker_url,
        "HERMES_TASKS_PREFIX": settings.prefix,
    }
    document: Any = json.loads(celery("sessions", "list", "--json", **env).stdout)
    assert [row["session"] for row in document["rows"]] == [S]
    assert "no worker has run yet" in celery("sessions", "show", "s", **env).stdout
    assert_one_line(celery("sessions", "show", "nobody", **env), 2, "knows no session")


def test_an_application_without_ordered_queues_is_one_line(server_type: type[Server]) -> None:
    plain = [sys.executable, "-m", "celery", "-b", "redis://:s3cret@127.0.0.1:1/0"]
    result = run_process(*plain, "sessions", "list", env={})
    assert_one_line(result, 2, "redis://:***@127.0.0.1:1/0, which has no ordered queues")
