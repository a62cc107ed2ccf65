"""``hermes-tasks status``, over gates that calls have really gone through."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from hermes_tasks.gate import Ended, Gate, Go, Hold, Policy
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.transport import SessionStore
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


def test_before_the_first_call_there_is_nothing_to_show(server: Server) -> None:
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url)
    assert result.returncode == 0
    assert "No worker has called Honcho yet" in result.stdout


def test_a_backend_that_is_well(server: Server, call: Callable[..., Gate]) -> None:
    for _ in range(12):
        call("home", Ended.OK)
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url)
    assert result.returncode == 0
    assert "default:home" in result.stdout
    assert "closed: calls are made" in result.stdout
    assert "5.0 s (p95 0.20 s of 12 calls)" in result.stdout


def test_an_open_breaker_says_when_the_next_probe_is_due_and_who_waits(
    server: Server, call: Callable[..., Gate]
) -> None:
    call("home", Ended.OK)
    for _ in range(5):
        call("away", Ended.FAILED)
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url, COLUMNS="120")
    assert result.returncode == 1
    assert "open: no calls are made" in result.stdout
    assert "next probe" in result.stdout

    found = json.loads(hermes_tasks("status", "--json", HERMES_TASKS_BROKER_URL=server.url).stdout)
    away, home = found["gates"]
    assert (away["name"], away["state"], away["held"]) == ("default:away", "open", 2)
    assert (home["name"], home["state"], home["held"]) == ("default:home", "closed", 0)
    assert away["counters"]["opened"] == 1
    assert 50 < away["probe_at"] - away["now"] < 70


def test_a_pause_is_shown_with_what_is_left_of_it(
    server: Server, call: Callable[..., Gate]
) -> None:
    call("busy", Ended.LIMITED, retry_after=300.0)
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url)
    assert result.returncode == 1
    assert "Honcho asked for" in result.stdout


def test_a_key_that_is_denied_is_shown_with_what_to_do(
    server: Server, call: Callable[..., Gate]
) -> None:
    call("home", Ended.DENIED, why="HTTP 401: set HONCHO_API_KEY of the workers")
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url, COLUMNS="120")
    assert result.returncode == 1
    assert "HTTP 401: set HONCHO_API_KEY of the workers" in result.stdout


def test_what_became_of_turns_is_shown(server: Server) -> None:
    store = SessionStore(server.client())
    for number in range(3):
        store.push("default:w:s", "{}", id=f"t{number}")
    claimed = store.claim("default:w:s", 1, "token", "worker")
    assert claimed is not None
    store.bury("default:w:s", "token", "t0", reason="poison")
    store.client.hincrby(store.names.stats, "hook_failed", 2)
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL=server.url)
    assert "accepted       │ 3" in result.stdout
    assert "given up       │ 1 poison" in result.stdout
    assert "calls of hooks │ 2 failed" in result.stdout


def test_without_redis_it_is_one_line(server_type: type[Server]) -> None:
    result = hermes_tasks("status", HERMES_TASKS_BROKER_URL="redis://127.0.0.1:1/0")
    assert_one_line(result, 3, "redis://127.0.0.1:1/0")
