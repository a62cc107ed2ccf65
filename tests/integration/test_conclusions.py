"""Conclusions through the real SDK: found by what they say, written alone, in their place."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from hermes_tasks.errors import HonchoError, Overloaded, Refused, SessionDeleted
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.testing.honcho import HonchoServer

pytestmark = pytest.mark.honcho

SECRET = "swordfish"


@pytest.fixture(scope="module")
def server() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _clear(server: HonchoServer) -> None:
    server.clear()


@pytest.fixture
def client(server: HonchoServer) -> Iterator[HonchoClient]:
    client = HonchoClient(server.url)
    yield client
    client.close()


@contextmanager
def calls() -> Iterator[Call]:
    yield Call(5.0)


def ensure(client: HonchoClient, *, session: str = "s") -> None:
    client.ensure("w", session, {}, calls=calls)
    client.ensure_peers("w", ("hermes", "igor"), calls=calls)


def conclude(client: HonchoClient, content: str, *, session: str = "s", of: str = "igor") -> None:
    with calls() as call:
        client.conclude("w", session, "hermes", of, content, call=call)


def concluded(client: HonchoClient, *contents: str, session: str = "s", of: str = "igor") -> Any:
    return client.concluded("w", session, "hermes", of, contents, calls=calls)


def contents(server: HonchoServer) -> list[str]:
    return [entry["content"] for entry in server.conclusions("s")]


def test_a_conclusion_is_one_call_when_its_session_and_peers_are_there(
    server: HonchoServer, client: HonchoClient
) -> None:
    for i in range(3):
        ensure(client)
        conclude(client, f"fact {i}")
    assert contents(server) == ["fact 0", "fact 1", "fact 2"]
    calls_made = {"workspaces": 1, "sessions": 1, "peers": 2, "conclusions": 3}
    assert server.stats()["calls"] == calls_made
    [first, *_] = server.conclusions()
    assert (first["session"], first["observer"], first["observed"]) == ("s", "hermes", "igor")


def test_peers_of_a_conclusion_get_the_settings_of_their_first_turn(
    server: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    peers = {"igor": {"observe_me": True}, "hermes": {"observe_me": False}}
    client.ensure("w", "s", peers, calls=calls)
    members = httpx.get(f"{server.url}/v3/workspaces/w/sessions/s/peers").json()["items"]
    assert {member["id"]: member["configuration"] for member in members} == peers


def test_peers_who_have_spoken_are_known(server: HonchoServer, client: HonchoClient) -> None:
    client.ensure("w", "s", {"igor": {}, "hermes": {}}, calls=calls)
    ensure(client)
    conclude(client, "a")
    assert "peers" not in server.stats()["calls"]


def test_it_is_found_by_peers_session_and_every_character(
    server: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    ensure(client, session="other")
    client.ensure_peers("w", ["maria"], calls=calls)
    conclude(client, "Igor likes tea.")
    assert concluded(client, "Igor likes tea.") == Counter({"Igor likes tea.": 1})
    for elsewhere in ({"session": "other"}, {"of": "maria"}, {"of": "hermes"}):
        assert not concluded(client, "Igor likes tea.", **elsewhere)
    for other in ("Igor likes tea", "igor likes tea.", " Igor likes tea.", "Igor likes tea.\n"):
        assert not concluded(client, other)


def test_several_are_looked_for_at_once_and_equal_ones_counted(
    server: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    for content in ("a", "b", "b", "c"):
        conclude(client, content)
    before = server.stats()["calls"]["conclusions"], server.stats()["calls"].get("list", 0)
    assert concluded(client, "a", "a", "b", "d") == Counter({"a": 1, "b": 1})
    assert concluded(client, "b", "b", "b") == Counter({"b": 2})
    assert (before, server.stats()["calls"]["list"]) == ((4, 0), 2)


def test_all_pages_are_read_until_nothing_is_missing(
    server: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    conclude(client, "the oldest")
    entries = [
        {"content": f"{i}", "observer_id": "hermes", "observed_id": "igor", "session_id": "s"}
        for i in range(100)
    ]
    for _ in range(2):
        httpx.post(
            f"{server.url}/v3/workspaces/w/conclusions", json={"conclusions": entries}
        ).raise_for_status()
    conclude(client, "the newest")
    assert concluded(client, "the oldest").total() == 1
    assert server.stats()["calls"]["list"] == 3
    assert concluded(client, "the newest").total() == 1
    assert server.stats()["calls"]["list"] == 4


@pytest.mark.parametrize(
    ("status", "kind", "may_have_been_written"),
    [(422, Refused, False), (404, SessionDeleted, False), (502, Overloaded, True)],
)
def test_how_it_failed_is_told_without_a_word_of_it(
    server: HonchoServer,
    client: HonchoClient,
    status: int,
    kind: type[HonchoError],
    may_have_been_written: bool,
) -> None:
    ensure(client)
    content = f"{SECRET} <|endoftext|>" if status == 422 else SECRET
    if status == 404:
        httpx.delete(f"{server.url}/v3/workspaces/w/sessions/s").raise_for_status()
    if status == 502:
        server.control(fail=502, after=True, route="conclusions")
    with pytest.raises(HonchoError) as caught:
        conclude(client, content)
    assert type(caught.value) is kind
    assert caught.value.may_have_been_written is may_have_been_written
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith(f"HTTP {status}: writing a conclusion to session s")
    assert concluded(client, content).total() == int(status == 502)


def test_a_server_that_forgot_its_peers_gets_them_again(
    server: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    server.clear()
    with pytest.raises(SessionDeleted):
        conclude(client, "a")
    ensure(client)
    conclude(client, "a")
    assert contents(server) == ["a"]
