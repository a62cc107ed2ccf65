"""Chores of the thread that keeps a worker's leases."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator

import pytest
import redis

from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.keeper import Keeper
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.sessions import Outcome, SessionOptions, SessionStore

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
