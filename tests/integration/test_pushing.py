"""Many pushes in one round trip: each is answered, and none gets in whose predecessor did not."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from hermes_tasks.transport import Push, PushAnswer, SessionOptions, SessionStore, push_all
from hermes_tasks.transport.keys import Names

DEFAULTS: dict[str, Any] = {"size": 1, "kind": "k", "delay": 0.0, "token": "", "previous": None}


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix), SessionOptions(waiting_limit=3))


def push(session: str, number: int, previous: int | None = None) -> Push:
    """The message ``number`` of a gateway."""
    options = {"id": f"m{number}", "sender": "gateway", "sent": number, "previous": previous}
    return Push(session, f"text of {number}", DEFAULTS | options)


def statuses(answers: list[PushAnswer | redis.RedisError]) -> list[str]:
    return [a.status if isinstance(a, PushAnswer) else type(a).__name__ for a in answers]


def test_every_push_is_answered_in_order(store: SessionStore) -> None:
    # Given messages of two sessions, one of them twice, and one whose predecessor never came,
    batch = [push("a", 1), push("b", 2), push("a", 3, 1), push("a", 3, 1), push("b", 9, 8)]
    # I expect the answers of a push each
    answers = push_all(store, batch)
    assert statuses(answers) == ["accepted", "accepted", "accepted", "duplicate", "gap"]
    assert store.progress("a").accepted == 2
    assert store.progress("b").accepted == 1


def test_a_batch_brings_the_script_along_where_it_is_not_known(store: SessionStore) -> None:
    push_all(store, [push("a", 1)])
    store.client.script_flush()
    assert statuses(push_all(store, [push("a", 2, 1), push("b", 3)])) == ["accepted", "accepted"]


def test_a_session_that_is_broken_is_the_only_one(store: SessionStore) -> None:
    store.client.set(store.names.session("broken")[0], "no hash")
    answers = push_all(store, [push("a", 1), push("broken", 2), push("b", 3), push("a", 4, 1)])
    assert isinstance(answers[1], ResponseError)
    assert statuses(answers[:1] + answers[2:]) == ["accepted"] * 3


def test_of_a_batch_that_is_refused_nothing_gets_in(store: SessionStore) -> None:
    # Given a Redis whose memory is full,
    store.client.config_set("maxmemory", 1)
    try:
        # I expect it to refuse all, by an error for each or by one for the whole
        answers = push_all(store, [push("a", 1), push("a", 2, 1), push("b", 3)])
        assert all(isinstance(answer, OutOfMemoryError) for answer in answers)
    except OutOfMemoryError:
        pass
    finally:
        store.client.config_set("maxmemory", 0)
    assert store.progress("a").accepted == store.progress("b").accepted == 0


def test_what_a_full_session_gave_up_is_told(
    store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    bounded = SessionStore(
        store.client, store.names, SessionOptions(waiting_limit=1, backlog_limit=1)
    )
    *_, last = push_all(bounded, [push("a", number, number - 1 or None) for number in (1, 2, 3)])
    assert isinstance(last, PushAnswer)
    assert last.dropped == ("m1",)
    assert "Session a is full: gave up its 1 oldest" in caplog.text
    # said once for many
    push_all(bounded, [push("a", number, number - 1) for number in range(4, 10)])
    assert len([record for record in caplog.records if "is full" in record.message]) == 1
    assert "text of" not in caplog.text
