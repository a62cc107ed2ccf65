"""``hermes-tasks status``, over gates that calls have really gone through."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_tasks.config import Settings
from hermes_tasks.gate import Ended, Gate, Go, Hold, Policy
from hermes_tasks.gate.check import Check
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.workers import clean_environment
from hermes_tasks.transport import SessionStore
from tests.integration.commands import Commands
from tests.integration.test_cli import assert_one_line, hermes_tasks

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


@pytest.fixture
def call(server: Server) -> Callable[..., Gate]:
    """Makes one call of a fresh session through a gate, that ends as asked."""
    store = SessionStore(server.client())
    made = iter(range(1_000))

    def make(workspace: str, ended: Ended, retry_after: float | None = None, why: str = "") -> Gate:
        gate = Gate(store, Policy(), f"default:{workspace}")
        session = f"default:{workspace}:{next(made)}"
        store.push(session, "{}", id=session)
        number = int(store.client.zscore(store.names.ready, session) or 0)
        claimed = store.claim(session, number, f"token of {session}", "worker")
        assert claimed is not None
        answer = gate.admit(session, claimed.token, (1, 1), f"call of {session}", 2)
        if isinstance(answer, Go):
            gate.report(answer, ended, 0.2, retry_after, why=why)
        else:
            assert isinstance(answer, Hold)
        return gate

    return make


@pytest.fixture
def run(server: Server) -> Commands:
    return Commands(Settings(broker_url=server.url), columns=80)


def test_before_the_first_turn_all_is_well_but_for_a_worker(run: Commands) -> None:
    result = run("status")
    assert result.exit_code == 0
    assert "No worker has called Honcho yet" in result.stdout
    assert "No worker is running." in result.stdout
    assert "celery -A hermes_tasks worker" in result.stdout


def test_turns_that_wait_without_a_worker_are_wrong(run: Commands, server: Server) -> None:
    SessionStore(server.client()).push("default:w:s", "{}", id="t")
    result = run("status")
    assert result.exit_code == 1
    assert "No worker is running; 1 turn waits, the oldest for" in result.stdout
    (problem,) = run.json("status")["problems"]
    assert problem["severity"] == "wrong"
    assert problem["do"] == "start one: celery -A hermes_tasks worker"


def test_a_lag_that_no_version_has_listed_yet_is_not_none(run: Commands, server: Server) -> None:
    store = SessionStore(server.client())
    assert "all that was accepted is settled" in run("status").stdout
    store.push("default:w:s", "{}", id="t")
    store.client.delete(store.names.lagging)
    assert "not known until a worker of this version runs" in run("status").stdout


def test_a_backend_that_is_well(run: Commands, call: Callable[..., Gate]) -> None:
    for _ in range(12):
        call("home", Ended.OK)
    assert "default:home" in run("status").stdout
    result = run("gate", "show")
    assert result.exit_code == 0
    assert "closed: calls are made" in result.stdout
    assert "5.0 s (p95 0.20 s of 12 calls)" in result.stdout


def test_an_open_breaker_says_when_the_next_probe_is_due_and_who_waits(
    run: Commands, call: Callable[..., Gate]
) -> None:
    call("home", Ended.OK)
    for _ in range(5):
        call("away", Ended.FAILED)
    result = run("status")
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "default:away: the breaker is open since" in said
    assert "Nothing is lost." in said
    assert "hermes-tasks gate close default:away" in said

    result = run("gate", "show", "default:away")
    assert result.exit_code == 1
    assert "open: no calls are made" in result.stdout
    assert "next probe" in result.stdout
    assert run("gate", "show", "default:home").exit_code == 0

    away, home = run.json("status")["gates"]
    assert (away["name"], away["state"], away["held"]) == ("default:away", "open", 2)
    assert (home["name"], home["state"], home["held"]) == ("default:home", "closed", 0)
    assert away["counters"]["opened"] == 1
    assert 50 < away["probe_at"] - away["now"] < 70
    assert [gate["name"] for gate in run.json("gate", "show")] == ["default:away", "default:home"]


def test_a_pause_is_shown_with_what_is_left_of_it(run: Commands, call: Callable[..., Gate]) -> None:
    call("busy", Ended.LIMITED, retry_after=300.0)
    result = run("status")
    assert result.exit_code == 1
    assert "Honcho asked for a pause" in result.stdout


def test_a_key_that_is_denied_is_shown_with_what_to_do(
    run: Commands, call: Callable[..., Gate]
) -> None:
    call("home", Ended.DENIED, why="HTTP 401: set HONCHO_API_KEY of the workers")
    result = run("status")
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "Honcho refuses every call (HTTP 401: set HONCHO_API_KEY of the workers)" in said


def test_a_gate_is_opened_for_a_maintenance_closed_and_reset_by_hand(
    run: Commands, call: Callable[..., Gate]
) -> None:
    call("home", Ended.OK)
    # Where there is one gate only, it need not be named.
    result = run("gate", "open", "--for", "30m", "--reason", "moving house")
    assert result.exit_code == 0
    assert result.stdout == "default:home: open; no call is made for 30 min\n"
    said = " ".join(run("status").stdout.split())
    assert "calls are stopped by hand since" in said
    assert "(moving house)" in said
    assert run("gate", "show").exit_code == 1
    assert "moving house" in run("gate", "show").stdout

    assert run.json("gate", "close")["state"] == "closed"
    assert run("gate", "close").stdout == "default:home: it was closed already\n"
    assert run("gate", "reset").stderr.startswith("error: nobody is there to be asked")
    assert run("gate", "reset", "--yes").stdout == "default:home: as new\n"
    assert run.json("gate", "show")[0]["classes"][0]["samples"] == 0


def test_of_several_gates_one_must_be_named(run: Commands, call: Callable[..., Gate]) -> None:
    for workspace in ("home", "away"):
        call(workspace, Ended.OK)
    result = run("gate", "open")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "name one of: default:away, default:home" in result.stderr


def test_a_gate_that_is_not_there_is_one_line(run: Commands, call: Callable[..., Gate]) -> None:
    call("home", Ended.OK)
    result = run("gate", "show", "default:nowhere")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "there is no gate default:nowhere, but: default:home" in result.stderr


def test_what_became_of_turns_is_shown(run: Commands, server: Server) -> None:
    store = SessionStore(server.client())
    for number in range(3):
        store.push("default:w:s", "{}", id=f"t{number}")
    claimed = store.claim("default:w:s", 1, "token", "worker")
    assert claimed is not None
    store.bury("default:w:s", "token", "t0", reason="poison")
    store.client.hincrby(store.names.stats, "hook_failed", 2)
    lines = [line.split() for line in run("status").stdout.splitlines()]
    assert ["accepted", "3"] in lines
    assert ["to", "be", "written", "2"] in lines
    assert ["given", "up", "1", "poison"] in lines
    assert ["calls", "of", "hooks", "2", "failed"] in lines

    document = run.json("status")
    assert (document["accepted"], document["unsettled"], document["dead"]) == (3, 2, 1)
    assert document["given_up"] == {"poison": 1}


@pytest.mark.parametrize("command", ["status", "health"])
def test_without_redis_it_is_one_line(server_type: type[Server], command: str) -> None:
    result = hermes_tasks(command, HERMES_TASKS_BROKER_URL="redis://:pw@127.0.0.1:1/0")
    assert_one_line(result, 3, "redis://:***@127.0.0.1:1/0")


def test_a_status_that_is_watched_shows_it_again_until_it_is_interrupted(server: Server) -> None:
    watching = subprocess.Popen(
        [Path(sys.executable).with_name("hermes-tasks"), "status", "--watch", "0.2"],
        env=clean_environment() | {"HERMES_TASKS_BROKER_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    seen = 0
    while seen < 2:
        seen += "No worker is running." in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=20)
    assert (watching.returncode, errors) == (0, "")


def test_a_gate_that_somebody_has_spoilt_hides_nothing_else(
    run: Commands, call: Callable[..., Gate], server: Server
) -> None:
    call("home", Ended.OK)
    hash = SessionStore(server.client()).names.gate("default:home")[0]
    for field in {b"state", *server.client().hkeys(hash)}:
        # Given one field after the other that is none
        before = server.client().hget(hash, field)
        server.client().hset(hash, field, b"sideways\xff")
        # I expect who looks to be shown all that can be read, and check to say what is wrong
        for command in (["status"], ["gate", "show"], ["status", "--json"]):
            assert "default:home" in run(*command).stdout, field
        if before is not None:
            server.client().hset(hash, field, before)
    found = Check(SessionStore(server.client()), Policy(), settle=0.0).run().findings
    assert any("its state is" in finding.text for finding in found)
