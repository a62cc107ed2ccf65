"""Conclusions through the real SDK: found by what they say, written alone, in their place."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hermes_tasks import TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.errors import HonchoError, InvalidTurn, Overloaded, Refused, SessionDeleted
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.honcho.writer import Writer, WriteReport
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.turns import Conclusion, Memory, Turn
from tests.conftest import StartWorker

pytestmark = pytest.mark.honcho

SECRET = "swordfish"


@pytest.fixture(scope="module")
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


@pytest.fixture(autouse=True)
def _clear(honcho: HonchoServer) -> None:
    honcho.clear()


@pytest.fixture
def client(honcho: HonchoServer) -> Iterator[HonchoClient]:
    client = HonchoClient(honcho.url)
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


def contents(honcho: HonchoServer) -> list[str]:
    return [entry["content"] for entry in honcho.conclusions("s")]


def test_a_conclusion_is_one_call_when_its_session_and_peers_are_there(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    for i in range(3):
        ensure(client)
        conclude(client, f"fact {i}")
    assert contents(honcho) == ["fact 0", "fact 1", "fact 2"]
    calls_made = {"workspaces": 1, "sessions": 1, "peers": 2, "conclusions": 3}
    assert honcho.stats()["calls"] == calls_made
    [first, *_] = honcho.conclusions()
    assert (first["session"], first["observer"], first["observed"]) == ("s", "hermes", "igor")


def test_peers_of_a_conclusion_get_the_settings_of_their_first_turn(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    peers = {"igor": {"observe_me": True}, "hermes": {"observe_me": False}}
    client.ensure("w", "s", peers, calls=calls)
    members = httpx.get(f"{honcho.url}/v3/workspaces/w/sessions/s/peers").json()["items"]
    assert {member["id"]: member["configuration"] for member in members} == peers


def test_peers_who_have_spoken_are_known(honcho: HonchoServer, client: HonchoClient) -> None:
    client.ensure("w", "s", {"igor": {}, "hermes": {}}, calls=calls)
    ensure(client)
    conclude(client, "a")
    assert "peers" not in honcho.stats()["calls"]


def test_it_is_found_by_peers_session_and_every_character(
    honcho: HonchoServer, client: HonchoClient
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
    honcho: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    for content in ("a", "b", "b", "c"):
        conclude(client, content)
    before = honcho.stats()["calls"]["conclusions"], honcho.stats()["calls"].get("list", 0)
    assert concluded(client, "a", "a", "b", "d") == Counter({"a": 1, "b": 1})
    assert concluded(client, "b", "b", "b") == Counter({"b": 2})
    assert (before, honcho.stats()["calls"]["list"]) == ((4, 0), 2)


def test_all_pages_are_read_until_nothing_is_missing(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    conclude(client, "the oldest")
    entries = [
        {"content": f"{i}", "observer_id": "hermes", "observed_id": "igor", "session_id": "s"}
        for i in range(100)
    ]
    for _ in range(2):
        httpx.post(
            f"{honcho.url}/v3/workspaces/w/conclusions", json={"conclusions": entries}
        ).raise_for_status()
    conclude(client, "the newest")
    assert concluded(client, "the oldest").total() == 1
    assert honcho.stats()["calls"]["list"] == 3
    assert concluded(client, "the newest").total() == 1
    assert honcho.stats()["calls"]["list"] == 4


@pytest.mark.parametrize(
    ("status", "kind", "may_have_been_written"),
    [(422, Refused, False), (404, SessionDeleted, False), (502, Overloaded, True)],
)
def test_how_it_failed_is_told_without_a_word_of_it(
    honcho: HonchoServer,
    client: HonchoClient,
    status: int,
    kind: type[HonchoError],
    may_have_been_written: bool,
) -> None:
    ensure(client)
    content = f"{SECRET} <|endoftext|>" if status == 422 else SECRET
    if status == 404:
        httpx.delete(f"{honcho.url}/v3/workspaces/w/sessions/s").raise_for_status()
    if status == 502:
        honcho.control(fail=502, after=True, route="conclusions")
    with pytest.raises(HonchoError) as caught:
        conclude(client, content)
    assert type(caught.value) is kind
    assert caught.value.may_have_been_written is may_have_been_written
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith(f"HTTP {status}: writing a conclusion to session s")
    assert concluded(client, content).total() == int(status == 502)


def test_a_server_that_forgot_its_peers_gets_them_again(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    ensure(client)
    honcho.clear()
    with pytest.raises(SessionDeleted):
        conclude(client, "a")
    ensure(client)
    conclude(client, "a")
    assert contents(honcho) == ["a"]


# -- the writer ---------------------------------------------------------------------------------


class Guard:
    """A right to write that notes what is done with it; nothing that may land is waited for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.settled: list[str] = []
        self.buried: dict[str, str] = {}
        self.rewritten: list[str] = []

    @contextmanager
    def call(self, messages: int = 0, ids: Iterable[str] = ()) -> Iterator[Call]:
        if messages:
            self.calls.append(tuple(ids))
        yield Call(5.0)

    def found(self, ids: Iterable[str], twice: Collection[str]) -> None:
        assert not twice
        self.settled.extend(ids)

    def ask_again(self, ids: Iterable[str]) -> bool:
        return False

    def commit(self, ids: Iterable[str]) -> None:
        self.settled.extend(ids)

    def bury(self, turn_id: str, reason: str, detail: str) -> None:
        self.buried[turn_id] = f"{reason}: {detail}"


def turn(turn_id: str) -> Turn:
    return Turn.create("w", "s", [{"peer": "igor", "content": turn_id}], turn_id=turn_id)


def fact(turn_id: str, content: str = "", **more: Any) -> Conclusion:
    return Conclusion.create(
        "w", "s", "hermes", "igor", content or turn_id, turn_id=turn_id, **more
    )


def in_order(honcho: HonchoServer) -> list[str]:
    """Messages and conclusions, each in its place."""
    stored = [(entry["number"], 0, entry["content"]) for entry in honcho.log("s")]
    stored += [(e["after"], e["number"], e["content"]) for e in honcho.conclusions("s")]
    return [content for *_, content in sorted(stored)]


def test_conclusions_are_written_alone_and_in_their_place(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    guard = Guard()
    names = ["t1", "t2", "c1", "c2", "t3", "c3"]
    entries: list[Memory] = [turn(n) if n[0] == "t" else fact(n) for n in names]
    report = Writer(client).write(entries, guard, ask=False)
    assert report == WriteReport(written=6, found=0, dead=())
    assert in_order(honcho) == guard.settled == names
    assert guard.calls == [("t1", "t2"), ("c1",), ("c2",), ("t3",), ("c3",)]


def test_what_was_stored_of_turns_and_conclusions_is_found_and_not_written_again(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    guard, names = Guard(), ["t1", "c1", "t2", "c2", "t3"]
    entries: list[Memory] = [turn(n) if n[0] == "t" else fact(n) for n in names]
    honcho.control(fail=502, after=True, route="conclusions", skip=1)
    with pytest.raises(Overloaded):
        Writer(client).write(entries, guard, ask=False)
    assert guard.settled == names[:3]
    report = Writer(client).write(entries[3:], guard, ask=True)
    assert report == WriteReport(written=1, found=1, dead=())
    assert in_order(honcho) == guard.settled == names
    # One that may ask for itself, beside one that is new and says the same
    report = Writer(client).write([fact("again", "c1", ask=True), fact("c4")], guard, ask=False)
    assert report == WriteReport(written=1, found=1, dead=())
    report = Writer(client).write([fact("x", "new"), fact("y", "new")], guard, ask=True)
    assert report == WriteReport(written=2, found=0, dead=())


def test_a_conclusion_that_is_refused_is_buried_alone(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    guard = Guard()
    poison = Conclusion.from_json({**fact("bad").to_json(), "content": "<|endoftext|>"})
    report = Writer(client).write([turn("t1"), poison, fact("c1")], guard, ask=False)
    assert report == WriteReport(written=2, found=0, dead=("bad",))
    assert in_order(honcho) == ["t1", "c1"]
    assert guard.buried == {
        "bad": "poison: HTTP 422: writing a conclusion to session s at body.conclusions.0 "
        "(value_error)"
    }


# -- from gateway to Honcho ---------------------------------------------------------------------


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_a_gateway_concludes_between_two_turns(
    honcho: HonchoServer, settings: Settings, worker: StartWorker, tmp_path: Path
) -> None:
    with TurnSync(settings=settings, outbox_dir=tmp_path) as sync:
        running = worker("-P", "solo", "--without-mingle", env={"HONCHO_URL": honcho.url})
        who = {"session": "s", "observer": "hermes", "observed": "igor"}
        sync.sync_turn(session="s", messages=[{"peer": "igor", "content": "Where is my tea?"}])
        receipt = sync.conclude(**who, content=f"{SECRET}\0", turn_id="fact:1")
        sync.sync_turn(session="s", messages=[{"peer": "igor", "content": "Thank you."}])
        assert (receipt.turn_id, receipt.session) == ("fact:1", "s")
        assert sync.flush(session="s", timeout=20.0)
        assert in_order(honcho) == ["Where is my tea?", f"{SECRET}\u2400", "Thank you."]
        with pytest.raises(InvalidTurn, match=r"^content "):
            sync.conclude(**who, content=" ")
        assert SECRET not in running.log
