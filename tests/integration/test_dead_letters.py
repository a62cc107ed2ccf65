"""Dead letters by example, on every kind of server: what a retry does, and what is dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import wire
from hermes_tasks.transport.answers import Claimed, Outcome
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.keeper import Keeper
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import SessionStore
from tests.integration.editing import Edits, edited_scripts, set_clock

S = "default:ws:s"
OPTIONS = SessionOptions(
    waiting_limit=3, backlog_limit=2, batch_messages=3, batch_size=5, max_attempts=3, landing=30
)
only_valkey = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix), OPTIONS)


@pytest.fixture
def letters(store: SessionStore) -> DeadLetters:
    return DeadLetters(store)


def push(store: SessionStore, *ids: str) -> None:
    for id in ids:
        assert store.push(S, f"text of {id}", id=id, kind="k").status == "accepted"


def claim(store: SessionStore, token: str = "t") -> Claimed:
    raw: Any = store.client.rpop(store.names.run)
    number, session = json.loads(raw)
    claimed = store.claim(session, int(number), token, "worker")
    assert claimed is not None
    return claimed


def ids_of(claimed: Claimed) -> list[str]:
    return [item.id for item in claimed.items]


def bury(store: SessionStore, *ids: str, token: str = "t", reason: str = "poison") -> None:
    for id in ids:
        assert store.bury(S, token, id, reason=reason) is not None


def write(store: SessionStore, claimed: Claimed, *ids: str) -> None:
    """Write some of a batch, and give the session back."""
    assert store.begin(S, claimed.token, claimed.items[0].number, claimed.items[-1].number)
    assert store.commit(S, claimed.token, ids, doubtful=0)
    store.complete(S, claimed.token, Outcome.ENDED)


def retry(letters: DeadLetters, *ids: str) -> list[tuple[str, str]]:
    """Retry the letters of these messages; what became of each."""
    chosen = [letter for id in ids for letter in letters.named(id)]
    return [(done.letter.id, done.answer) for done in letters.retry(chosen)]


def work_off(store: SessionStore) -> list[str]:
    """Write all that is ready; the ids in the order in which they reach the backend."""
    written: list[str] = []
    while store.client.llen(store.names.run):
        claimed = claim(store, f"later {len(written)}")
        written += ids_of(claimed)
        write(store, claimed, *ids_of(claimed))
    return written


# -- what a retry does ----------------------------------------------------------------------------


def test_a_letter_goes_in_front_of_what_was_accepted_later(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"1234")
    claim(store)
    bury(store, "1", "3")
    store.complete(S, "t", Outcome.ENDED)
    assert retry(letters, "3", "1") == [("1", "front"), ("3", "front")]
    assert work_off(store) == ["1", "2", "3", "4"]
    assert list(letters.newest()) == []
    counters = store.counters()
    assert (counters["dead_retried"], counters["written"]) == (2, 4)


def test_a_letter_goes_to_the_end_once_something_later_is_written(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"1234")
    claimed = claim(store)
    bury(store, "2")
    write(store, claimed, "1", "3")
    assert retry(letters, "2") == [("2", "end")]
    assert work_off(store) == ["4", "2"]


def test_a_letter_goes_to_the_end_while_something_later_may_be_written(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"123")
    claimed = claim(store)
    bury(store, "1")
    assert retry(letters, "1") == [("1", "end")]  # 2 and 3 are in a worker's hands
    bury(store, "2")
    store.begin(S, "t", claimed.items[2].number, claimed.items[2].number)
    store.complete(S, "t", Outcome.RELEASED)
    assert retry(letters, "2") == [("2", "end")]  # and now in doubt
    assert work_off(store) == ["3", "1", "2"]


def test_a_letter_finds_its_place_though_a_worker_has_what_comes_before(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"123")
    claim(store)
    bury(store, "3")
    push(store, *"45")
    assert retry(letters, "3") == [("3", "front")]
    write(store, claim_again(store), "1", "2")
    assert work_off(store) == ["3", "4", "5"]


def claim_again(store: SessionStore) -> Claimed:
    claimed = store.claim(S, 1, "t", "worker")
    assert claimed is not None
    return claimed


def test_a_session_that_sleeps_for_a_later_one_wakes_for_the_letter(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, "1", "2")
    claim(store)
    bury(store, "1")
    store.note(S, "t", "500")
    store.postpone(S, "t", 60, in_doubt=False, note="503")
    store.complete(S, "t", Outcome.ENDED)
    assert store.progress(S).state == "sleeping"
    assert retry(letters, "1") == [("1", "front")]
    claimed = claim(store)
    assert (ids_of(claimed), claimed.tries, claimed.attempts) == (["1", "2"], 0, 0)


def test_a_retried_letter_is_asked_about_before_it_is_written(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"123")
    claim(store)
    bury(store, "2")
    store.complete(S, "t", Outcome.ENDED)
    retry(letters, "2")
    doubt = claim(store).doubt
    assert doubt is not None
    assert (doubt.first, doubt.last) == (2, 2)


def test_a_call_that_may_land_is_waited_for_after_a_retry_as_well(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, "1", "2")
    claimed = claim(store)
    store.begin(S, "t", 1, 2)
    bury(store, "1", reason="given_up")
    (letter,) = letters.newest()
    (stays,) = letters.retry([letter])
    assert (stays.answer, stays.wait > 25) == ("doubt", True)
    store.complete(S, "t", Outcome.ENDED)
    (done,) = letters.retry([letter])
    assert (done.answer, done.wait > 25) == ("end", True)
    doubt = claim(store).doubt
    assert doubt is not None
    assert doubt.until > claimed.now + 25_000


def test_a_retry_has_no_room_where_a_new_message_would_drop_another(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, *"123456")  # the first overflows
    assert retry(letters, "1") == [("1", "full")]
    assert [letter.id for letter in letters.newest()] == ["1"]
    assert ids_of(claim(store)) == ["2", "3", "4"]
    assert retry(letters, "1") == [("1", "full")]
    store.commit(S, "t", ["2"], doubtful=0)
    assert retry(letters, "1") == [("1", "end")]


def test_the_bounds_of_queue_and_backlog_hold(store: SessionStore, letters: DeadLetters) -> None:
    push(store, *"12345")
    claim(store)
    bury(store, "1", "2", "3")
    store.complete(S, "t", Outcome.ENDED)
    push(store, "6")
    assert retry(letters, "1", "2", "3") == [("1", "front"), ("2", "front"), ("3", "full")]
    progress = store.progress(S)
    assert (progress.waiting, progress.backlog) == (3, 2)
    assert work_off(store) == ["1", "2", "4", "5", "6"]


def test_what_is_queued_already_stays(store: SessionStore, letters: DeadLetters) -> None:
    push(store, "1", "2")
    claim(store)
    bury(store, "1")
    push(store, "1")
    assert retry(letters, "1") == [("1", "duplicate")]
    assert len(list(letters.newest())) == 1


def test_a_letter_that_is_gone_is_said_to_be(store: SessionStore, letters: DeadLetters) -> None:
    push(store, "1")
    claim(store)
    bury(store, "1")
    (letter,) = letters.newest()
    assert letters.discard([letter]) == 1
    assert [done.answer for done in letters.retry([letter])] == ["gone"]
    assert store.counters()["dead_purged"] == 1


def test_the_numbers_of_a_session_that_was_forgotten_are_not_those_of_its_letters(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, "1", "2")
    claim(store)
    bury(store, "1", "2")
    store.complete(S, "t", Outcome.ENDED)
    store.client.delete(store.names.session(S)[0])  # as after a day
    push(store, "3")
    claim(store)
    bury(store, "3")
    store.complete(S, "t", Outcome.ENDED)
    push(store, "4")
    assert retry(letters, "1", "2", "3") == [("1", "end"), ("3", "front"), ("2", "end")]
    assert work_off(store) == ["3", "4", "1", "2"]


def test_after_another_redis_process_answers_everything_later_may_be_written(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, "1", "2")
    claim(store)
    bury(store, "1")
    store.complete(S, "t", Outcome.ENDED)
    store.note_server()
    store.client.hset(store.names.meta, "run_id", "another")
    store.note_server()
    (done,) = letters.retry(letters.newest())
    # It may have been retried in the second that is forgotten, and that call be on its way.
    assert (done.answer, done.wait > 25) == ("end", True)


@pytest.mark.parametrize("message", ["", "\n", "a\nb", "1 2 3 4 5 6", "ü🦀", "\0"], ids=ascii)
@pytest.mark.parametrize("id", ["a b", "%20", "1-2", "-"])
def test_any_message_of_any_id_comes_back_as_it_was(
    store: SessionStore, letters: DeadLetters, message: str, id: str
) -> None:
    store.push(S, message, id=id, size=2, kind="k")
    claim(store)
    bury(store, id)
    store.complete(S, "t", Outcome.ENDED)
    (letter,) = letters.named(id)
    assert letters.message(letter) == message.encode()
    assert letters.named(letter.entry) == [letter]
    assert retry(letters, id) == [(id, "front")]
    (item,) = claim(store).items
    assert (item.id, item.message) == (id, message.encode())


def test_an_expired_message_is_retried_without_its_expiry(
    store: SessionStore, letters: DeadLetters
) -> None:
    message: dict[str, Any] = {
        "headers": {"task": "t", "id": "1", "expires": "2020-01-01T00:00:00Z"},
        "properties": {},
        "body": "b",
    }
    store.push(S, wire.pack(message, ""), id="1")
    claim(store)
    store.complete(S, "t", Outcome.EXPIRED, "1")
    assert retry(letters, "1") == [("1", "front")]
    message["headers"]["expires"] = None
    again = claim(store).items[0].message.decode()
    assert wire.unpack(again) == wire.unpack(wire.pack(message, ""))


# -- what is found, and what is dropped -----------------------------------------------------------


def test_letters_are_found_by_session_reason_and_id_newest_first(
    store: SessionStore, letters: DeadLetters
) -> None:
    for session in ("a", "b"):
        for id in "12":
            store.push(session, "text", id=id, kind="k")
        claimed = claim(store)
        for id in ids_of(claimed):
            store.bury(session, "t", id, reason="poison" if id == "1" else "given_up", detail="x")

    def found(**wanted: Any) -> list[tuple[str, str]]:
        return [(letter.session, letter.id) for letter in letters.newest(**wanted)]

    assert found() == [("b", "2"), ("b", "1"), ("a", "2"), ("a", "1")]
    assert found(session="a") == [("a", "2"), ("a", "1")]
    assert found(reason="poison") == [("b", "1"), ("a", "1")]
    assert found(session="b", reason="poison", id="2") == []
    assert found(limit=1) == [("b", "2")]
    assert [letter.session for letter in letters.named("1")] == ["b", "a"]
    assert letters.named("3") == letters.named("1-1") == []


def test_what_somebody_else_put_there_is_listed_and_never_queued(
    store: SessionStore, letters: DeadLetters
) -> None:
    store.client.xadd(store.names.dead, {"session": S, "number": "x", "attempts": "-"})
    (letter,) = letters.newest()
    assert (letter.session, letter.id, letter.number) == (S, "", 0)
    assert [done.answer for done in letters.retry([letter])] == ["gone"]
    assert letters.discard([letter]) == 1


@only_valkey
def test_many_letters_are_found_and_counted_when_the_cap_drops_them(
    store: SessionStore, letters: DeadLetters
) -> None:
    push(store, "1")
    claim(store)
    bury(store, "1")
    entries: Any = store.client.xrange(store.names.dead)
    ((_, fields),) = entries
    pipe = store.client.pipeline(transaction=False)
    for _ in range(10_300):
        pipe.xadd(store.names.dead, fields)
    pipe.execute()
    assert sum(1 for _ in letters.newest()) == 10_301
    push(store, "2")
    bury_next(store)
    dropped = store.counters()["dead_trimmed"]
    assert dropped > 0
    assert store.client.xlen(store.names.dead) == 10_302 - dropped


def bury_next(store: SessionStore) -> None:
    """Make a dead letter of what is queued next."""
    store.complete(S, "t", Outcome.ENDED)
    claimed = claim(store, "next")
    bury(store, *ids_of(claimed), token="next")


@only_valkey
def test_a_keeper_drops_what_is_too_old_and_counts_it(store: SessionStore) -> None:
    aged = SessionStore(store.client, store.names, SessionOptions(dead_max_age=0.05))
    push(store, "1")
    claim(store)
    bury(store, "1")
    (letter,) = DeadLetters(store).newest()

    def is_old() -> bool:
        seconds, micros = store.client.time()
        return int(seconds) + int(micros) / 1e6 > letter.at.timestamp() + 0.05

    wait_until(is_old, 5, "the letter to be too old")
    keeper = Keeper(aged)
    keeper.start()
    try:
        wait_until(lambda: store.counters().get("dead_trimmed") == 1, 5, "it to be dropped")
    finally:
        keeper.stop()
    assert list(DeadLetters(store).newest()) == []


def test_letters_are_dropped_by_age_when_told(store: SessionStore, letters: DeadLetters) -> None:
    push(store, "1")
    claim(store)
    bury(store, "1")
    assert letters.discard_older(60) == 0
    assert letters.trim() == 0
    (letter,) = letters.newest()
    wait_until(lambda: letters.discard_older(0) == 1, 5, "a millisecond to pass")
    assert store.counters()["dead_purged"] == 1
    assert letters.named(letter.entry) == []


# -- the rules of a retry, and each undone --------------------------------------------------------

WHATEVER_IS_WRITTEN: Edits = {
    "retry": [("number > reached and is_of_these(entry)", "is_of_these(entry)")]
}
WITHOUT_A_QUESTION: Edits = {
    "retry": [("intent = record_intent(intent, number, number, lands)", "")],
}


def order_after_a_retry(client: redis.Redis) -> list[str]:
    """What the backend gets of 1 to 3, when 1 was given up and 2 was written before its retry."""
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, 1_800_000_000_000)
    push(store, *"123")
    claimed = claim(store)
    bury(store, "1")
    write(store, claimed, "2")
    retry(DeadLetters(store), "1")
    return ["2", *work_off(store)]


def is_asked_about(client: redis.Redis) -> bool:
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, 1_800_000_000_000)
    push(store, "1")
    claim(store)
    bury(store, "1")
    store.complete(S, "t", Outcome.ENDED)
    retry(DeadLetters(store), "1")
    return claim(store).doubt is not None


@only_valkey
def test_undone_the_rules_would_be_missed(redis_client: redis.Redis) -> None:
    for edits, order in (({}, ["2", "3", "1"]), (WHATEVER_IS_WRITTEN, ["2", "1", "3"])):
        redis_client.flushdb()
        with edited_scripts(edits):
            assert order_after_a_retry(redis_client) == order
    for edits, asked in (({}, True), (WITHOUT_A_QUESTION, False)):
        redis_client.flushdb()
        with edited_scripts(edits):
            assert is_asked_about(redis_client) == asked
