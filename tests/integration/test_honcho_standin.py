"""The stand-in keeps the rules that were measured on the real service, through the real SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from honcho import Honcho, MessageCreateParams, Session
from honcho.api_types import SessionPeerConfig

from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until

pytestmark = pytest.mark.honcho
MESSAGES = "/v3/workspaces/w/sessions/s/messages"


@pytest.fixture(scope="module")
def server() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _clear(server: HonchoServer) -> None:
    server.clear()


@pytest.fixture
def http(server: HonchoServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture
def sdk(server: HonchoServer, http: httpx.Client) -> Honcho:
    return Honcho(
        base_url=server.url, workspace_id="w", api_key="k", max_retries=0, http_client=http
    )


def message(content: str = "hi", **more: Any) -> dict[str, Any]:
    return {"peer_id": "igor", "content": content, **more}


def post(http: httpx.Client, *messages: dict[str, Any], path: str = MESSAGES) -> httpx.Response:
    return http.post(path, json={"messages": messages})


def conclude(http: httpx.Client, *conclusions: dict[str, Any]) -> httpx.Response:
    return http.post("/v3/workspaces/w/conclusions", json={"conclusions": conclusions})


def test_posting_creates_workspace_session_and_peers(server: HonchoServer, sdk: Honcho) -> None:
    [stored] = Session("s", sdk).add_messages([MessageCreateParams(content="hi", peer_id="igor")])
    assert (stored.content, stored.peer_id, stored.session_id) == ("hi", "igor", "s")
    assert [peer.id for peer in Session("s", sdk).peers()] == ["igor"]
    assert [entry["content"] for entry in server.log("s")] == ["hi"]


def test_peers_get_their_settings_once(sdk: Honcho) -> None:
    session = sdk.session("s", peers=[("igor", SessionPeerConfig(observe_me=False))])
    session.add_peers([("igor", SessionPeerConfig(observe_me=True)), "hermes"])
    assert {peer.id for peer in session.peers()} == {"igor", "hermes"}


@pytest.mark.parametrize("count", [1, 100])
def test_one_to_a_hundred_messages_are_a_batch(
    server: HonchoServer, http: httpx.Client, count: int
) -> None:
    assert post(http, *[message(str(i)) for i in range(count)]).status_code == 201
    log = server.log("s")
    assert [entry["content"] for entry in log] == [str(i) for i in range(count)]
    assert {entry["batch"] for entry in log} == {1}
    assert len({entry["created_at"] for entry in log}) == 1


@pytest.mark.parametrize("count", [0, 101])
def test_none_or_more_than_a_hundred_are_refused(http: httpx.Client, count: int) -> None:
    assert post(http, *[message()] * count).status_code == 422


@pytest.mark.parametrize(
    "bad",
    [
        message("x" * 25_001),
        message("a <|endoftext|> b"),
        message("a <|endof\0prompt|> b"),
        message(metadata={str(i): i for i in range(101)}),
        message(metadata={"1": {"2": {"3": {"4": {"5": {"6": 1}}}}}}),
        message(created_at="yesterday"),
        {"content": "hi"},
    ],
)
def test_one_bad_message_and_nothing_is_stored_and_the_answer_echoes_it(
    server: HonchoServer, http: httpx.Client, bad: dict[str, Any]
) -> None:
    response = post(http, message("good"), bad)
    assert response.status_code == 422
    assert "input" in response.json()["detail"][0]
    assert server.log() == []


@pytest.mark.parametrize(
    "good",
    [
        message("x" * 25_000),
        message("\U0001f600" * 25_000),
        message(""),
        message("hi", metadata={"text": "<|endoftext|>"}),
        message("hi", metadata={"1": {"2": {"3": {"4": {"5": 1}}}}}),
    ],
)
def test_what_the_service_takes_is_taken(http: httpx.Client, good: dict[str, Any]) -> None:
    assert post(http, good).status_code == 201


def test_nul_is_stripped_and_times_and_metadata_are_kept(
    server: HonchoServer, http: httpx.Client
) -> None:
    post(
        http,
        message("a\0b", metadata={"k": [1]}, created_at="2026-01-31T13:00:00.000001+01:00"),
        message(created_at="2026-01-31T12:00:00"),
    )
    first, second = server.log("s")
    assert (first["content"], first["metadata"]) == ("ab", {"k": [1]})
    assert first["created_at"] == "2026-01-31T12:00:00.000001+00:00"
    assert second["created_at"] == "2026-01-31T12:00:00.000000+00:00"


def test_nothing_is_idempotent(server: HonchoServer, http: httpx.Client) -> None:
    for _ in range(3):
        post(http, message("same"))
    assert len(server.log("s")) == 3


def test_a_bad_session_id_is_a_500_on_messages_and_a_422_on_sessions(http: httpx.Client) -> None:
    http.headers["Connection"] = "close"  # as it is after a 500
    bad = MESSAGES.replace("/s/", "/telegram:42/")
    assert post(http, message(), path=bad).status_code == 500
    assert post(http, {"peer_id": "a b", "content": "hi"}).status_code == 500
    for route in ("/v3/workspaces", "/v3/workspaces/w/sessions", "/v3/workspaces/w/peers"):
        assert http.post(route, json={"id": "telegram:42"}).status_code == 422
        assert http.post(route, json={"id": "x" * 513}).status_code == 422


def test_several_ids_are_found_in_one_question_page_by_page(sdk: Honcho) -> None:
    session = sdk.session("s")
    for turn in ("a", "b", "c"):
        session.add_messages(
            [
                MessageCreateParams(
                    content=str(i), peer_id="igor", metadata={"turn_id": turn, "part": i}
                )
                for i in range(60)
            ]
        )

    def found(condition: Any) -> list[Any]:
        page = session.messages(filters={"metadata": {"turn_id": condition}})
        return [(m.metadata["turn_id"], m.metadata["part"]) for m in page]

    assert found({"in": ["a", "c"]}) == [(turn, i) for turn in "ac" for i in range(60)]
    assert found("b") == [("b", i) for i in range(60)]
    assert found({"in": ["x"]}) == found(["a", "b"]) == []
    assert len(found("*")) == 180
    assert session.messages().size == 50
    assert next(iter(session.messages(reverse=True))).metadata == {"turn_id": "c", "part": 59}


def test_a_deleted_session_takes_nothing_more(sdk: Honcho, http: httpx.Client) -> None:
    session = sdk.session("s")
    session.add_messages([MessageCreateParams(content="hi", peer_id="igor")])
    session.delete()
    assert post(http, message()).status_code == 404
    assert http.post("/v3/workspaces/w/sessions", json={"id": "s"}).status_code == 404
    assert list(session.messages()) == []


def test_conclusions_need_their_session_and_peers_and_are_kept_twice(
    server: HonchoServer, sdk: Honcho, http: httpx.Client
) -> None:
    conclusion = {"content": "likes tea", "session_id": "s"}
    entry = {**conclusion, "observer_id": "hermes", "observed_id": "igor"}
    assert conclude(http, entry).status_code == 404
    session = sdk.session("s", peers=["igor"])
    session.add_messages([MessageCreateParams(content="hi", peer_id="igor")])
    assert conclude(http, entry).status_code == 404
    of_igor = sdk.peer("hermes").conclusions_of("igor")
    for _ in range(2):
        of_igor.create([conclusion])
    of_igor.create([{"content": "likes milk"}])
    assert [c.content for c in of_igor.list(session="s")] == ["likes tea", "likes tea"]
    # The newest first, unlike messages.
    assert [c.session_id for c in of_igor.list(size=2)] == [None, "s", "s"]
    assert next(iter(of_igor.list(reverse=True))).session_id == "s"
    logged = server.conclusions("s")
    assert [(c["number"], c["after"], c["content"]) for c in logged] == [
        (1, 1, "likes tea"),
        (2, 1, "likes tea"),
    ]
    session.delete()
    assert conclude(http, entry).status_code == 404


@pytest.mark.parametrize("content", ["", "x" * 65_536, "a <|endoftext|> b", None])
def test_one_bad_conclusion_and_none_is_stored(
    server: HonchoServer, sdk: Honcho, http: httpx.Client, content: Any
) -> None:
    sdk.session("s", peers=["igor", "hermes"])
    entry = {"content": "good", "observer_id": "hermes", "observed_id": "igor", "session_id": "s"}
    response = conclude(http, entry, {**entry, "content": content})
    assert response.status_code == 422
    assert "input" in response.json()["detail"][0]
    assert conclude(http).status_code == 422
    assert server.conclusions() == []


def test_told_to_fail_it_fails_as_often_as_told(server: HonchoServer, http: httpx.Client) -> None:
    server.control(fail=503, times=2, skip=1, retry_after=7)
    answers = [post(http, message(str(i))) for i in range(4)]
    assert [answer.status_code for answer in answers] == [201, 503, 503, 201]
    assert answers[1].headers["Retry-After"] == "7"
    assert [entry["content"] for entry in server.log()] == ["0", "3"]


def test_it_can_store_and_fail_all_the_same(server: HonchoServer, http: httpx.Client) -> None:
    server.control(fail=502, after=True)
    assert post(http, message()).status_code == 502
    assert len(server.log()) == 1


def test_after_a_500_it_closes_the_connection_unannounced(server: HonchoServer) -> None:
    server.control(fail=500)
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=5)
    connection.request("POST", MESSAGES, json.dumps({"messages": [message()]}))
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (500, None)
    answer.read()
    assert connection.sock.recv(1) == b""
    connection.close()


@pytest.mark.parametrize("after", [False, True])
def test_a_stalled_call_lands_although_its_client_has_gone(
    server: HonchoServer, http: httpx.Client, after: bool
) -> None:
    server.control(stall=0.3, after=after)
    with pytest.raises(httpx.ReadTimeout):
        http.post(MESSAGES, json={"messages": [message()]}, timeout=0.1)
    wait_until(lambda: len(server.log()) == 1, 5, "the call to land")


@pytest.mark.parametrize(("after", "stored"), [(False, 0), (True, 1)])
def test_a_cut_connection_is_reset(
    server: HonchoServer, http: httpx.Client, after: bool, stored: int
) -> None:
    server.control(cut=True, after=after)
    with pytest.raises(httpx.ReadError):
        post(http, message())
    assert len(server.log()) == stored
    assert post(http, message()).status_code == 201


def test_a_dripped_answer_comes_byte_by_byte(server: HonchoServer, http: httpx.Client) -> None:
    server.control(drip=0.001)
    began = time.monotonic()
    answer = post(http, message())
    assert answer.json()[0]["content"] == "hi"
    assert time.monotonic() - began > 0.001 * len(answer.content)


def test_a_rate_limit_lets_so_many_in(server: HonchoServer, http: httpx.Client) -> None:
    server.control(rate_limit=5, retry_after=1)
    answers = [post(http, message()) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [201] * 5 + [429] * 3
    assert answers[-1].headers["Retry-After"] == "1"


def test_random_failures_are_repeatable(server: HonchoServer, http: httpx.Client) -> None:
    def statuses() -> list[int]:
        server.control(reset=True, failure_rate=0.5, failure_statuses=[502, 503], seed=7)
        return [post(http, message()).status_code for _ in range(30)]

    first = statuses()
    assert {502, 503, 201} == set(first)
    assert statuses() == first


def test_latency_may_vary(server: HonchoServer, http: httpx.Client) -> None:
    server.control(latency=0.05)
    began = time.monotonic()
    post(http, message())
    assert time.monotonic() - began >= 0.05
    server.control(latency={"median": 0.001, "sigma": 0.5})
    assert post(http, message()).status_code == 201


def test_without_its_key_nobody_is_let_in(server: HonchoServer, http: httpx.Client) -> None:
    server.control(api_key="right")
    assert post(http, message()).status_code == 401
    http.headers["Authorization"] = "Bearer right"
    assert post(http, message()).status_code == 201


@pytest.mark.parametrize(
    ("orders", "complaint"),
    [
        ({"sing": 1}, "sing"),
        ({"fail": 503, "cut": True}, "one at a time"),
        ({"fail": 503, "route": "x"}, "route is one of"),
        ({"fail": "soon"}, "soon"),
    ],
)
def test_orders_it_does_not_understand_change_nothing(
    server: HonchoServer, http: httpx.Client, orders: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        server.control(**orders)
    assert post(http, message()).status_code == 201


def test_it_counts_calls_connections_and_overlaps(server: HonchoServer, http: httpx.Client) -> None:
    before = server.stats()["connections"]
    for _ in range(3):
        post(http, message())
    stats = server.stats()
    assert stats["calls"] == {"messages": 3}
    assert stats["statuses"] == {"201": 3}
    # One for the client, one for the first question; this answer counts its own.
    assert stats["connections"] - before == 2
    assert stats["overlaps"] == 0


def test_it_ends_with_the_process_that_started_it() -> None:
    script = (
        "from hermes_tasks.testing.honcho import HonchoServer\n"
        "server = HonchoServer().start()\n"
        "print(server.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=30, check=False
    )
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # Gone but for an entry in the process table that nobody here has read yet.
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] == "Z"

    wait_until(gone, 10, "the stand-in to end")


def test_a_restart_keeps_the_address_and_forgets_the_rest() -> None:
    with HonchoServer() as server:
        url = server.url
        httpx.post(server.url + MESSAGES, json={"messages": [message()]}).raise_for_status()
        server.restart()
        assert (server.url, server.log()) == (url, [])


def test_without_its_extra_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from hermes_tasks.errors import ConfigurationError\n"
        "try:\n"
        "    import hermes_tasks.testing.honcho\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=30, check=True
    )
    assert done.stdout.decode() == (
        "the Honcho stand-in needs: pip install 'hermes-tasks[testing]'\n"
    )
