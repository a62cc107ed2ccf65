"""Chores of the thread that keeps a worker's leases."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.answers import Claimed, Entry, Outcome
from hermes_tasks.transport.keeper import Keeper, Wanted, keeper_for, private_store
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import PLENTY, SessionStore

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


@pytest.fixture
def keeper(redis_client: redis.Redis, prefix: str) -> Iterator[Keeper]:
    keeper = Keeper(SessionStore(redis_client, Names(prefix), SessionOptions(lease=0.9)))
    keeper.start()
    yield keeper
    keeper.stop()


def test_a_chore_is_done_at_every_tick_on_the_keepers_thread(keeper: Keeper) -> None:
    threads: list[str] = []
    keeper.every_tick("do this", lambda: threads.append(threading.current_thread().name))
    wait_until(lambda: len(threads) >= 3, 5.0, "three ticks")
    assert set(threads) == {"session-keeper"}


def test_the_last_chore_of_a_name_is_the_one(keeper: Keeper) -> None:
    done: list[str] = []
    keeper.every_tick("do this", lambda: done.append("first"))
    wait_until(lambda: done, 5.0, "a tick")
    keeper.every_tick("do this", lambda: done.append("second"))
    wait_until(lambda: done.count("second") >= 2, 5.0, "two more ticks")
    assert done == sorted(done)


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), ZeroDivisionError("what")])
def test_a_chore_that_fails_is_said_once_and_ends_nothing(
    keeper: Keeper, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.WARNING)
    times = itertools.count(1)
    good = threading.Event()

    def chore() -> None:
        if next(times) <= 3:
            raise error
        good.set()

    keeper.every_tick("do this", chore)
    store = keeper.store
    store.push("s", "text", id="1")
    claim = store.claim("s", 1, "t", "worker")
    assert claim is not None
    keeper.add(claim, settles=True)
    assert good.wait(10.0)
    wait_until(lambda: "Can do this again" in caplog.text, 5.0, "the end of it")
    assert caplog.text.count("Could not do this, will try again") == 1
    assert store.renew([("s", "t")]) == [True]  # the lease, of less than a second, was renewed
    keeper.finish("t", Outcome.SETTLED)
    assert store.progress("s").state == "idle"


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What hangs together in a circle stays."""
    gc.disable()
    yield
    gc.enable()


def test_a_store_of_its_own_has_no_connection_but_that(
    settings: Settings, redis_client: redis.Redis, no_collector: None
) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in redis_client.client_list()}

    before = connections()
    app = make_app(settings, set_as_current=False)
    store = private_store(app.connection_for_write(), single=True)
    mine = str(store.client.client_id())
    wait_until(lambda: connections() - before == {mine}, 5.0, "one connection")
    store.client.close()


def work_on(keeper: Keeper, entry: Any) -> Claimed:
    found = Entry.parse(entry)
    claim = keeper.store.claim(found.session, found.number, f"token of {found.session}", "worker")
    assert claim is not None
    keeper.add(claim, settles=True)
    return claim


def next_after(keeper: Keeper, claim: Claimed) -> Claimed | bytes | None:
    return keeper.finish(claim.token, Outcome.SETTLED, Wanted("next", "worker", ()))


def busy(keeper: Keeper) -> tuple[Claimed, str]:
    """What a worker holds that is quick, and the session that was popped ahead for it."""
    store, sessions = keeper.store, PLENTY + 40
    for number in range(sessions):
        store.push(f"s{number}", "text", id="1")
    entry: Any = store.client.rpop(store.names.run)
    for number in range(1, sessions):
        entry = next_after(keeper, work_on(keeper, entry))
        assert isinstance(entry, bytes)
        if store.client.llen(store.names.run) == sessions - number - 2:
            return work_on(keeper, entry), f"s{number + 1}"
    raise AssertionError("nothing was popped ahead")


def oldest(store: SessionStore) -> str:
    """The session that is popped next."""
    entry: Any = store.client.lindex(store.names.run, -1)
    return Entry.parse(entry).session


def test_a_worker_that_is_quick_claims_the_next_session_with_its_acknowledgement(
    keeper: Keeper,
) -> None:
    claim, ahead = busy(keeper)
    following = next_after(keeper, claim)
    assert isinstance(following, Claimed)
    assert (following.session, following.token) == (ahead, "next")


def test_what_is_popped_ahead_is_given_back_when_the_worker_is_quick_no_more(
    keeper: Keeper,
) -> None:
    claim, ahead = busy(keeper)
    wait_until(lambda: oldest(keeper.store) == ahead, 3.0, "the session that was popped ahead")
    entry = next_after(keeper, claim)
    assert isinstance(entry, bytes)
    assert Entry.parse(entry).session == ahead
    assert oldest(keeper.store) == f"s{int(ahead[1:]) + 1}", "a slow worker keeps it from others"


def test_what_is_popped_ahead_is_given_back_when_redis_was_away(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = keeper.store
    claim, ahead = busy(keeper)
    with monkeypatch.context() as away:
        away.setattr(store.client, "execute_command", gone)
        assert next_after(keeper, claim) is None
    wait_until(lambda: store.progress(claim.session).state == "idle", 3.0, "its end to be told")
    wait_until(lambda: oldest(store) == ahead, 3.0, "what was popped ahead")


def test_what_was_claimed_by_an_exchange_whose_answer_is_lost_costs_no_attempt(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = keeper.store
    claim, ahead = busy(keeper)
    execute: Any = store.client.execute_command

    def lose_answer(*command: object, **options: object) -> None:
        execute(*command, **options)
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as away:
        away.setattr(store.client, "execute_command", lose_answer)
        assert next_after(keeper, claim) is None
    wait_until(lambda: store.progress(ahead).state == "ready", 3.0, "the claim to be released")
    assert store.progress(ahead).attempts == 0


def test_what_the_server_refuses_to_claim_does_not_stop_the_next_exchange(keeper: Keeper) -> None:
    store = keeper.store
    claim, ahead = busy(keeper)
    store.client.lset(store.names.session(ahead)[2], 0, "no item")
    assert next_after(keeper, claim) is None
    claim = work_on(keeper, store.client.rpop(store.names.run))
    assert next_after(keeper, claim) is not None


def test_leases_are_renewed_while_a_signal_has_stopped_whoever_ends_claims(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soft shutdown sleeps in its handler, which may be in the middle of a call."""
    with make_app(settings, set_as_current=False).connection_for_write() as connection:
        connection.transport_options["session_lease"] = 0.6
        keeper = keeper_for(connection, connection.default_channel.sessions)
        keeper.start()
        store = SessionStore(redis_client, keeper.store.names, keeper.store.options)
        for session in ("a", "b"):
            store.push(session, "text", id="1")
        first, second = (work_on(keeper, redis_client.rpop(store.names.run)) for _ in "ab")
        front: Any = keeper._front.client
        answer = front.parse_response

        def sleep(*arguments: object, **options: object) -> Any:
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                time.sleep(0.1)
                seconds, micros = redis_client.time()
                lease: Any = redis_client.zscore(store.names.leases, "b")
                assert lease > seconds * 1000 + micros / 1000, "nobody has renewed it"
            # And what ends in the handler, ends: but not in the middle of this.
            keeper.finish(second.token, Outcome.SETTLED)
            return answer(*arguments, **options)

        monkeypatch.setattr(front, "parse_response", sleep)
        keeper.finish(first.token, Outcome.SETTLED)
        for session in ("a", "b"):
            wait_until(lambda: store.progress(session).state == "idle", 5.0, session)  # noqa: B023
            assert store.progress(session).attempts == 0
        keeper.stop()


def test_two_that_end_claims_at_once_wait_for_each_other_and_for_no_thread(
    redis_client: redis.Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As greenlets of gevent do, each when its task is done."""
    store = SessionStore(redis_client, Names(prefix), SessionOptions())
    keeper = Keeper(store)  # and its thread does not run
    for session in ("a", "b"):
        store.push(session, "text", id="1")
    claims = [work_on(keeper, redis_client.rpop(store.names.run)) for _ in "ab"]
    both = threading.Barrier(2)
    answer: Any = redis_client.parse_response

    def meet(*arguments: object, **options: object) -> Any:
        both.wait(5.0)
        return answer(*arguments, **options)

    monkeypatch.setattr(redis_client, "parse_response", meet)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda claim: keeper.finish(claim.token, Outcome.SETTLED), claims))
    monkeypatch.undo()
    assert [store.progress(session).state for session in "ab"] == ["idle", "idle"]


def gone(*_command: object, **_options: object) -> None:
    raise redis.ConnectionError("gone")
