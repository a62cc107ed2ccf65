"""The writer against the stand-in, through the real SDK: once each, in order, silently."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from hermes_tasks.config import Settings
from hermes_tasks.errors import (
    ConfigurationError,
    DeadlineExceeded,
    HonchoError,
    LeaseLost,
    Overloaded,
    RateLimited,
    Refused,
    Unauthorised,
    Unreachable,
)
from hermes_tasks.guard import GatedLease
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call, DeadlineTransport
from hermes_tasks.honcho.writer import WriteGuard, Writer, WriteReport
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.turns import Turn

pytestmark = pytest.mark.honcho

SECRET = "swordfish"
POISON = f"{SECRET} <|endoftext|>"


class Guard:
    """A right to write that notes what is done with it, and may be lost."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, ...]] = []
        self.committed: list[str] = []
        self.buried: dict[str, tuple[str, str]] = {}
        self.lost_at: str | None = None
        self.seconds = 5.0
        self.rewritten: list[str] = []
        self.twice: set[str] = set()
        self.unfound: list[list[str]] = []
        self.questions = 1

    @contextmanager
    def call(self, messages: int = 0, ids: Iterable[str] = ()) -> Iterator[Call]:
        self._step("call")
        if messages:
            self.begun.append(tuple(ids))
        yield Call(self.seconds, lambda: self._step("check"))

    def found(self, ids: Iterable[str], twice: Collection[str]) -> None:
        self._step("found")
        self.committed.extend(ids)
        self.twice.update(twice)

    def ask_again(self, ids: Iterable[str]) -> bool:
        self._step("ask_again")
        self.unfound.append(list(ids))
        return len(self.unfound) < self.questions

    def commit(self, ids: Iterable[str]) -> None:
        self._step("commit")
        self.committed.extend(ids)

    def bury(self, turn_id: str, reason: str, detail: str) -> None:
        self._step("bury")
        self.buried[turn_id] = (reason, detail)

    def _step(self, name: str) -> None:
        if self.lost_at == name:
            raise LeaseLost("the lease is over")


def _a_gated_lease_is_a_guard(lease: GatedLease) -> WriteGuard:
    """Checked by mypy."""
    return lease


@pytest.fixture(scope="module")
def server() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _clear(server: HonchoServer) -> None:
    server.clear()


Connect = Callable[..., HonchoClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients, and closes their connections in the end."""
    made: list[HonchoClient] = []

    def make(*arguments: Any, **options: Any) -> HonchoClient:
        made.append(HonchoClient(*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(server: HonchoServer, connect: Connect) -> HonchoClient:
    return connect(server.url)


@pytest.fixture
def writer(client: HonchoClient) -> Writer:
    return Writer(client)


@pytest.fixture
def guard() -> Guard:
    return Guard()


def turn(turn_id: str, *contents: str, **more: Any) -> Turn:
    """A turn as a gateway makes it."""
    messages = [
        {"peer": ("igor", "hermes")[i % 2], "content": content}
        for i, content in enumerate(contents or (f"{SECRET} {turn_id}", f"answer {turn_id}"))
    ]
    return Turn.create("w", "s", messages, turn_id=turn_id, **more)


def poisoned(turn_id: str) -> Turn:
    """A turn that Honcho refuses: one that an older gateway did not clean."""
    data = turn(turn_id).to_json()
    data["messages"][1]["content"] = POISON
    return Turn.from_json(data)


def stored(server: HonchoServer) -> list[tuple[str, int]]:
    """What the session holds, in order, as turn and part."""
    return [(entry["metadata"]["turn_id"], entry["metadata"]["part"]) for entry in server.log("s")]


def parts(*turns: Turn) -> list[tuple[str, int]]:
    return [(turn.turn_id, part) for turn in turns for part in range(turn.size)]


def fail(writer: Writer, turns: list[Turn], guard: Guard, kind: type[HonchoError]) -> HonchoError:
    """Write, expecting an error of exactly this kind that quotes nothing."""
    with pytest.raises(HonchoError) as caught:
        writer.write(turns, guard, ask=False)
    assert type(caught.value) is kind, repr(caught.value)
    assert_silent(caught.value)
    return caught.value


def assert_silent(error: BaseException | None) -> None:
    """Nothing that can be printed of an error, its causes or its contexts quotes the turn."""
    assert error is not None
    shown = "".join(traceback.format_exception(error))
    links, seen = [error], set()
    while links:
        link = links.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        shown += repr(link) + str(link) + repr(link.args) + repr(getattr(link, "__notes__", ""))
        shown += repr(vars(link))
        links += [other for other in (link.__cause__, link.__context__) if other is not None]
    assert SECRET not in shown


# -- what is written ----------------------------------------------------------------------------


def test_turns_are_one_call_in_order_with_times_and_metadata(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    turns = [
        Turn.create(
            "w",
            "s",
            [
                {"peer": "igor", "content": "hi", "created_at": "2026-01-31T12:00:00.000001Z"},
                {"peer": "hermes", "content": "hello", "metadata": {"mood": "fine", "part": 9}},
            ],
            turn_id="one",
        ),
        *(turn(f"t{i}") for i in range(20)),
    ]
    report = writer.write(turns, guard, ask=False)
    assert report == WriteReport(written=21, found=0, dead=())
    assert guard.committed == [t.turn_id for t in turns]
    assert stored(server) == parts(*turns)
    first, second = server.log("s")[:2]
    assert (first["peer"], first["content"]) == ("igor", "hi")
    assert first["created_at"] == "2026-01-31T12:00:00.000001+00:00"
    assert first["metadata"] == {"turn_id": "one", "part": 0, "parts": 2}
    assert second["metadata"] == {"mood": "fine", "turn_id": "one", "part": 1, "parts": 2}
    assert server.stats()["calls"] == {"workspaces": 1, "sessions": 1, "messages": 1}


def test_workspace_session_and_peers_are_created_once_with_their_settings(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    peers = {
        "igor": {"observe_me": True},
        "hermes": {"observe_me": False, "observe_others": True},
        "silent": {"observe_others": True},
    }
    for i in range(5):
        writer.write([turn(f"t{i}", peers=peers)], guard, ask=False)
    assert server.stats()["calls"] == {"workspaces": 1, "sessions": 1, "messages": 5}
    members = httpx.get(f"{server.url}/v3/workspaces/w/sessions/s/peers").json()["items"]
    assert {member["id"]: member["configuration"] for member in members} == peers


def test_a_new_peer_is_created_when_it_first_speaks(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    writer.write([turn("a")], guard, ask=False)
    late = Turn.create("w", "s", [{"peer": "late", "content": "hi"}], turn_id="b")
    writer.write([late], guard, ask=False)
    assert server.stats()["calls"] == {"workspaces": 1, "sessions": 2, "messages": 2}


def test_all_calls_share_one_connection(server: HonchoServer, writer: Writer, guard: Guard) -> None:
    writer.write([turn("first")], guard, ask=False)
    before = server.stats()["connections"]
    for i in range(20):
        writer.write([turn(f"t{i}")], guard, ask=True)
    assert server.stats()["connections"] - before == 1  # the question itself


def test_more_than_a_hundred_messages_are_several_calls_each_with_whole_turns(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    turns = [turn(f"t{i}", "a", "b", "c") for i in range(70)]
    assert writer.write(turns, guard, ask=False).written == 70
    assert stored(server) == parts(*turns)
    assert [len(ids) for ids in guard.begun] == [33, 33, 4]


def test_a_turn_of_more_than_a_hundred_parts_is_committed_when_all_are_stored(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    long = turn("long", *(f"{i}" for i in range(250)))
    server.control(fail=503, skip=2)
    fail(writer, [turn("a"), long], guard, Overloaded)
    assert guard.committed == ["a"]
    assert stored(server) == parts(turn("a")) + parts(long)[:100]
    assert writer.write([long], guard, ask=True).written == 1
    assert guard.committed == ["a", "long"]
    assert stored(server) == parts(turn("a"), long)


def test_a_split_message_is_stored_whole(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    long = turn("long", "x" * 60_000)
    writer.write([long], guard, ask=False)
    assert [len(entry["content"]) for entry in server.log("s")] == [25_000, 25_000, 10_024]
    assert [entry["metadata"]["parts"] for entry in server.log("s")] == [3, 3, 3]


# -- once each ----------------------------------------------------------------------------------


def test_what_was_stored_before_a_502_is_found_and_not_written_again(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    turns = [turn(f"t{i}") for i in range(40)]  # 80 messages: two pages of answer
    server.control(fail=502, after=True)
    error = fail(writer, turns, guard, Overloaded)
    assert error.may_have_been_written
    assert guard.committed == []
    report = writer.write(turns, guard, ask=True)
    assert report == WriteReport(written=0, found=40, dead=())
    assert guard.committed == [t.turn_id for t in turns]
    assert stored(server) == parts(*turns)
    assert server.stats()["calls"]["list"] == 2


def test_a_turn_may_ask_for_itself(server: HonchoServer, writer: Writer, guard: Guard) -> None:
    old, again, new = turn("old"), turn("old", ask=True), turn("new")
    writer.write([old], guard, ask=False)
    report = writer.write([again, new], guard, ask=False)
    assert report == WriteReport(written=1, found=1, dead=())
    assert stored(server) == parts(old, new)


def test_only_the_missing_parts_of_a_turn_are_written(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    long = turn("long", *(f"{i}" for i in range(120)))
    server.control(fail=500, skip=1)
    fail(writer, [long], guard, Overloaded)
    writer.write([long, turn("next")], guard, ask=True)
    assert stored(server) == parts(long, turn("next"))
    assert guard.committed == ["long", "next"]


def test_other_turns_of_the_session_are_not_mistaken_for_ours(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    writer.write([turn("a"), turn("a:1")], guard, ask=False)
    assert writer.write([turn("a:1"), turn("b")], guard, ask=True).found == 1
    assert stored(server) == parts(turn("a"), turn("a:1"), turn("b"))


def test_what_is_not_found_is_asked_for_again_and_what_lands_meanwhile_is_not_written(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    stored_before, landing, new = turn("stored"), turn("landing"), turn("new")
    writer.write([stored_before], Guard(), ask=False)

    class Slow(Guard):
        """The earlier call lands between the two questions."""

        def ask_again(self, ids: Iterable[str]) -> bool:
            if not self.unfound:
                writer.write([landing], Guard(), ask=False)
            return super().ask_again(ids)

    slow = Slow()
    slow.questions = 2
    report = writer.write([stored_before, landing, new], slow, ask=True)
    assert report == WriteReport(written=1, found=2, dead=())
    assert slow.unfound == [["landing", "new"], ["new"]]
    assert stored(server) == parts(stored_before, landing, new)
    assert server.stats()["calls"]["list"] == 2


def test_what_was_found_is_settled_before_the_rest_is_waited_for(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    writer.write([turn("a")], Guard(), ask=False)
    guard.lost_at = "ask_again"
    with pytest.raises(LeaseLost):
        writer.write([turn("a"), turn("b")], guard, ask=True)
    assert guard.committed == ["a"]
    assert stored(server) == parts(turn("a"))


def test_a_question_tells_what_is_stored_twice(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    long = turn("long", *(f"{i}" for i in range(101)))
    for turns in ([turn("a")], [turn("a")], [turn("b")], [turn("b")], [turn("c")]):
        writer.write(turns, Guard(), ask=False)
    for _ in range(2):  # its first call is stored twice, its second never
        server.control(fail=500, skip=1)
        fail(writer, [long], Guard(), Overloaded)
    guard.rewritten = ["b", "c", "long"]
    report = writer.write([turn("a"), long, turn("d")], guard, ask=True)
    assert report == WriteReport(written=2, found=1, dead=())
    assert guard.twice == {"a", "b"}
    writer.write([turn("e")], guard, ask=True)
    assert guard.twice == {"a", "b", "long"}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_on_the_way_every_turn_is_stored_once_and_in_order(
    server: HonchoServer, writer: Writer, guard: Guard, seed: int
) -> None:
    server.control(failure_rate=0.6, seed=seed)
    turns = [turn(f"t{i}", *"abc"[: 1 + i % 3]) for i in range(100)]
    turns.insert(20, turn("long", *(f"{i}" for i in range(220))))
    waiting, attempts = list(turns), 0
    while waiting:
        attempts += 1
        try:
            writer.write(waiting[:50], guard, ask=attempts > 1)
        except Overloaded:
            pass  # the next attempt asks
        waiting = [t for t in turns if t.turn_id not in guard.committed]
    assert stored(server) == parts(*turns)
    assert len(guard.committed) == len(turns)
    assert attempts > 3


# -- the right to write -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["call", "check"])
def test_without_the_lease_nothing_is_sent(
    server: HonchoServer, writer: Writer, guard: Guard, step: str
) -> None:
    guard.lost_at = step
    with pytest.raises(LeaseLost) as caught:
        writer.write([turn("a")], guard, ask=False)
    assert_silent(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "messages" not in server.stats()["calls"]
    guard.lost_at = None
    assert writer.write([turn("a")], guard, ask=False).written == 1


def test_the_lease_is_checked_when_the_first_byte_leaves(
    server: HonchoServer, connect: Connect
) -> None:
    order: list[str] = []

    class Noting(DeadlineTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            order.append("request")
            return super().handle_request(request)

    client = connect(server.url, transport=lambda: Noting(server.url))
    call = Call(5.0, lambda: order.append("check"))
    client.add_messages("w", "s", list(said("a")), call=call)
    assert order == ["request", "check"] * 2  # the SDK creates the workspace first
    assert call.sent


def said(*contents: str) -> Iterator[dict[str, Any]]:
    for content in contents:
        yield {"peer_id": "igor", "content": content}


def test_a_lease_lost_while_committing_ends_the_writing(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    guard.lost_at = "commit"
    turns = [turn(f"t{i}", *"abc") for i in range(40)]
    with pytest.raises(LeaseLost):
        writer.write(turns, guard, ask=False)
    assert stored(server) == parts(*turns[:33])


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "where"), [(2, 1), (3, 2), (9, 0), (9, 1), (9, 4), (9, 8), (50, 17), (50, 49)]
)
def test_a_poison_turn_is_found_and_buried_and_the_others_are_written_in_order(
    server: HonchoServer, writer: Writer, guard: Guard, size: int, where: int
) -> None:
    turns = [turn(f"t{i}") for i in range(size)]
    turns[where] = poisoned(f"t{where}")
    report = writer.write(turns, guard, ask=False)
    good = [t for t in turns if t is not turns[where]]
    assert report == WriteReport(written=size - 1, found=0, dead=(f"t{where}",))
    assert server.stats()["calls"]["messages"] - 1 <= 2 * math.log2(size)
    assert stored(server) == parts(*good)
    assert guard.committed == [t.turn_id for t in good]
    [(reason, detail)] = guard.buried.values()
    assert reason == "poison"
    assert detail == ("HTTP 422: writing 2 messages to session s at body.messages.1 (value_error)")


def test_poison_alone_and_poison_only(server: HonchoServer, writer: Writer, guard: Guard) -> None:
    assert writer.write([poisoned("a")], guard, ask=False).dead == ("a",)
    assert writer.write([poisoned("b"), poisoned("c")], guard, ask=True).dead == ("b", "c")
    assert server.log() == []


def test_what_cannot_be_encoded_is_refused_here(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    data = turn("a").to_json()
    data["messages"][0]["content"] = f"{SECRET} \ud83d"
    report = writer.write([turn("b"), Turn.from_json(data)], guard, ask=False)
    assert report == WriteReport(written=1, found=0, dead=("a",))
    assert SECRET not in str(guard.buried)


def test_a_proxy_that_takes_small_requests_only_gets_them(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    long = turn("long", *(f"{i}" for i in range(10)))
    server.control(fail=413, times=2)
    assert writer.write([long], guard, ask=False).written == 1
    assert stored(server) == parts(long)
    assert len({entry["batch"] for entry in server.log("s")}) == 5


def test_a_deleted_session_is_not_created_again(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    writer.write([turn("before")], guard, ask=False)
    httpx.delete(f"{server.url}/v3/workspaces/w/sessions/s").raise_for_status()
    turns = [turn(f"t{i}", *"abc") for i in range(40)]
    report = writer.write(turns, guard, ask=False)
    assert report.dead == tuple(t.turn_id for t in turns)
    assert {reason for reason, _ in guard.buried.values()} == {"session_deleted"}
    assert server.stats()["calls"]["messages"] == 2
    assert writer.write([turn("later")], guard, ask=True).dead == ("later",)
    assert stored(server) == parts(turn("before"))


def test_a_404_of_someone_else_buries_nothing(
    server: HonchoServer, connect: Connect, guard: Guard
) -> None:
    client = connect(f"{server.url}/wrong/path")
    error = fail(Writer(client), [turn("a")], guard, Unreachable)
    assert "HONCHO_URL" in str(error)
    assert not error.may_have_been_written
    assert guard.buried == {}


# -- what may pass ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "may_have_been_written"),
    [
        (401, Unauthorised, False),
        (402, Unauthorised, False),
        (403, Unauthorised, False),
        (405, Unreachable, False),
        (407, Unauthorised, False),
        (408, Overloaded, True),
        (409, Overloaded, False),
        (429, RateLimited, False),
        (500, Overloaded, False),
        (502, Overloaded, True),
        (503, Overloaded, False),
        (504, Overloaded, True),
        (524, Overloaded, True),
        (307, Unreachable, False),
    ],
)
def test_a_status_that_may_pass_leaves_the_turns_where_they_are(
    server: HonchoServer,
    writer: Writer,
    guard: Guard,
    status: int,
    kind: type[HonchoError],
    may_have_been_written: bool,
) -> None:
    server.control(fail=status)
    turns = [turn("a"), turn("b")]
    error = fail(writer, turns, guard, kind)
    assert error.status == status
    assert error.may_have_been_written is may_have_been_written
    assert guard.committed == []
    assert guard.buried == {}
    # The connection that a 500 leaves behind must not break the next call.
    assert writer.write(turns, guard, ask=False).written == 2


def test_the_call_after_a_500_never_meets_the_closing_connection(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    for i in range(20):
        server.control(fail=500)
        fail(writer, [turn(f"t{i}")], guard, Overloaded)
        assert writer.write([turn(f"t{i}")], guard, ask=False).written == 1


@pytest.mark.parametrize(
    ("header", "seconds"), [(7, 7.0), ("soon", None), (-1, None), (None, None)]
)
def test_a_rate_limit_says_when_to_come_back(
    server: HonchoServer, writer: Writer, guard: Guard, header: Any, seconds: float | None
) -> None:
    server.control(fail=429, retry_after=header)
    error = fail(writer, [turn("a")], guard, RateLimited)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_a_retry_after_may_be_a_date(server: HonchoServer, writer: Writer, guard: Guard) -> None:
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    server.control(fail=429, retry_after=when)
    error = fail(writer, [turn("a")], guard, RateLimited)
    assert isinstance(error, RateLimited)
    assert error.retry_after == pytest.approx(60, abs=3)


@pytest.mark.parametrize("after", [False, True])
def test_a_stalled_call_ends_at_its_deadline(
    server: HonchoServer, client: HonchoClient, guard: Guard, after: bool
) -> None:
    server.control(stall=1.5, after=after)
    began = time.monotonic()
    guard.seconds = 0.3
    error = fail(Writer(client), [turn("a")], guard, DeadlineExceeded)
    assert time.monotonic() - began < 1.3
    assert error.may_have_been_written
    assert "0.3 s" in str(error)
    wait_until(lambda: server.stats()["in_flight"] == 0, 5, "the call to land")
    assert Writer(client).write([turn("a")], guard, ask=True).found == 1


def test_a_dripping_server_does_not_hold_a_call_beyond_its_deadline(
    server: HonchoServer, client: HonchoClient, guard: Guard
) -> None:
    server.control(drip=0.05)
    began = time.monotonic()
    guard.seconds = 0.5
    error = fail(Writer(client), [turn("a")], guard, DeadlineExceeded)
    assert time.monotonic() - began < 5.0  # to its end the answer takes longer than 10 s
    assert error.may_have_been_written


def test_a_call_that_is_given_up_is_taken_back_from_a_server_that_has_not_read_it(
    server: HonchoServer, client: HonchoClient, guard: Guard
) -> None:
    Writer(client).write([turn("before")], guard, ask=False)
    server.pause()
    try:
        guard.seconds = 0.3
        fail(Writer(client), [turn("taken-back")], guard, DeadlineExceeded)
    finally:
        server.resume()
    Writer(client).write([turn("after")], guard, ask=False)
    assert stored(server) == parts(turn("before"), turn("after"))


@pytest.mark.parametrize("after", [False, True])
def test_a_cut_connection_may_have_been_written(
    server: HonchoServer, writer: Writer, guard: Guard, after: bool
) -> None:
    server.control(cut=True, after=after)
    error = fail(writer, [turn("a")], guard, Unreachable)
    assert error.may_have_been_written
    assert writer.write([turn("a")], guard, ask=True) == WriteReport(not after, after, ())
    assert stored(server) == parts(turn("a"))


def test_without_a_server_nothing_was_written(connect: Connect, guard: Guard) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        client = connect(f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = fail(Writer(client), [turn("a")], guard, Unreachable)
        assert not error.may_have_been_written
        assert error.status is None


def test_a_server_that_is_replaced_is_found_again(connect: Connect, guard: Guard) -> None:
    with HonchoServer() as server:
        writer = Writer(connect(server.url))
        writer.write([turn("a")], guard, ask=False)
        server.restart()
        assert writer.write([turn("b")], guard, ask=False).written == 1


@pytest.mark.parametrize("route", ["workspaces", "sessions", "list"])
def test_what_fails_before_the_write_has_written_nothing(
    server: HonchoServer, writer: Writer, guard: Guard, route: str
) -> None:
    server.control(fail=502, route=route)
    with pytest.raises(Overloaded) as caught:
        writer.write([turn("a")], guard, ask=True)
    assert_silent(caught.value)
    assert not caught.value.may_have_been_written
    assert guard.begun == []
    assert writer.write([turn("a")], guard, ask=True).written == 1


def test_an_answer_that_is_not_one_of_honcho_may_still_mean_written(connect: Connect) -> None:
    answer = json.dumps([{"content": SECRET}]).encode()

    def strange() -> httpx.BaseTransport:
        return httpx.MockTransport(lambda _: httpx.Response(200, content=answer))

    client = connect("http://honcho.test", transport=strange)
    call = Call(5.0)
    call.sent = True  # the transport above has no stream in which this would be noticed
    with pytest.raises(HonchoError) as caught:
        client.add_messages("w", "s", list(said(SECRET)), call=call)
    assert_silent(caught.value)
    assert type(caught.value) is HonchoError
    assert caught.value.may_have_been_written


def test_its_key_is_sent(server: HonchoServer, connect: Connect, guard: Guard) -> None:
    server.control(api_key="right")
    wrong, right = (connect(server.url, key) for key in ("wrong", "right"))
    assert fail(Writer(wrong), [turn("a")], guard, Unauthorised).status == 401
    assert Writer(right).write([turn("a")], guard, ask=False).written == 1


# -- its place in a process ---------------------------------------------------------------------


def test_settings_make_a_client(server: HonchoServer, guard: Guard) -> None:
    client = HonchoClient.from_settings(Settings(honcho_url=server.url, honcho_api_key="k"))
    assert Writer(client).write([turn("a")], guard, ask=False).written == 1
    client.close()
    with pytest.raises(ConfigurationError, match="HONCHO_URL"):
        HonchoClient.from_settings(Settings())


def test_the_name_that_httpx_keeps_its_connections_under_is_still_there() -> None:
    with DeadlineTransport("http://127.0.0.1") as transport:
        pool = transport._pool
        assert type(pool._network_backend).__module__ == DeadlineTransport.__module__


def test_a_proxy_of_the_environment_is_used(
    server: HonchoServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    # The stand-in takes absolute request targets, as a proxy is sent them, for its own.
    connect("http://honcho.invalid:8000").ensure("w", "s", {}, calls=Guard().call)
    assert server.stats()["calls"] == {"workspaces": 1, "sessions": 1}
    monkeypatch.setenv("no_proxy", "honcho.invalid")
    with pytest.raises(Unreachable, match="no connection"):
        connect("http://honcho.invalid:8000").ensure("w", "s", {}, calls=Guard().call)


def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"gopher://user:{SECRET}@proxy")
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as caught:
        connect("http://honcho.test").ensure("w", "s", {}, calls=Guard().call)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_threads_share_a_client(server: HonchoServer, client: HonchoClient) -> None:
    writer = Writer(client)

    def work(name: str) -> None:
        for i in range(10):
            made = Turn.create("w", name, [{"peer": "igor", "content": str(i)}])
            writer.write([made], Guard(), ask=False)

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        assert [entry["content"] for entry in server.log(f"s{n}")] == [str(i) for i in range(10)]


# From Python 3.12 on; the test's own threads are over.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(
    server: HonchoServer, writer: Writer, guard: Guard
) -> None:
    writer.write([turn("parent")], guard, ask=False)
    child = os.fork()
    if not child:
        status = 1
        try:
            writer.write([turn("child")], Guard(), ask=False)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert writer.write([turn("again")], guard, ask=False).written == 1
    assert stored(server) == parts(turn("parent"), turn("child"), turn("again"))


def test_refused_is_what_remains(server: HonchoServer, client: HonchoClient) -> None:
    client.ensure("w", "s", {}, calls=Guard().call)
    server.control(fail=418)
    with pytest.raises(Refused) as caught:
        client.add_messages("w", "s", list(said(SECRET)), call=Call(5.0))
    assert_silent(caught.value)
    assert not caught.value.may_have_been_written
