"""The counter-examples that forced a rule, and the rule undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.sessions import SessionStore
from tests.integration.editing import Edits, edited_scripts, set_clock
from tests.integration.session_model.mutations import BROKEN
from tests.integration.session_model.store import GRACE, INTERVAL, OPTIONS, START

only_valkey = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


RETRY_BY_ID = BROKEN["a retry is known by its id, not by its token"]
RESCUE_BY_TIME: Edits = {
    "common": [
        ("redis.call('ZADD', READY, number, name)", "redis.call('ZADD', READY, now_ms(), name)")
    ],
    "rescue": [
        ("'(' .. mark", "ms(now - tonumber(ARGV[2]))"),
        ("redis.call('ZADD', KEYS[1], number, name)", "redis.call('ZADD', KEYS[1], now, name)"),
    ],
}
CLAIM_BY_THE_NEWEST_NUMBER: Edits = {
    "claim": [("number < tonumber(since)", "number ~= tonumber(redis.call('ZSCORE', READY, name))")]
}


def entry_of(store: SessionStore) -> tuple[str, int]:
    """Pop the oldest run-queue entry, as arguments of ``claim``."""
    raw: Any = store.client.rpop(store.names.run)
    number, session = json.loads(raw)
    return session, int(number)


def work_off(store: SessionStore, token: str) -> list[str]:
    """Write one batch, as a worker does; the ids that reach the backend."""
    claim = store.claim(*entry_of(store), token, "worker")
    assert claim is not None
    written = [item.id for item in claim.items]
    assert store.commit(claim.session, token, written)
    store.complete(claim.session, token, Outcome.ENDED)
    return written


def written_with_a_retry_after_a_lost_lease(client: redis.Redis) -> list[str]:
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, START)
    store.push("s", "one", id="1", kind="k")
    store.push("s", "two", id="2", kind="l")
    slow = store.claim(*entry_of(store), "slow", "worker")
    assert slow is not None
    set_clock(client, START + OPTIONS.lease_ms + 1)
    store.complete("s", "", Outcome.LAPSED)
    written = work_off(store, "quick")
    store.push("s", "one", id=slow.items[0].id, kind="k", token=slow.token)
    while client.llen(store.names.run):
        written += work_off(store, f"later {len(written)}")
    return written


def rounds_until_found_after_the_clock_stepped_back(client: redis.Redis) -> int | None:
    store = SessionStore(client, options=OPTIONS)
    set_clock(client, START)
    store.push("s", "one", id="1")
    entry_of(store)  # popped by a worker that dies
    now = START - 3_600_000
    for number in range(100):
        now += int(GRACE * 1000)
        set_clock(client, now)
        if store.rescue(INTERVAL, GRACE).requeued:
            return number
    return None


def claims_until_one_succeeds_on_a_slow_worker(client: redis.Redis) -> int | None:
    store = SessionStore(client, options=OPTIONS)
    now = START
    set_clock(client, now)
    store.push("s", "one", id="1")
    for number in range(1, 20):
        entry = entry_of(store)
        for _ in range(3):  # the worker needs longer for its claim than the grace
            now += int(GRACE * 1000)
            set_clock(client, now)
            store.rescue(INTERVAL, GRACE)
        if store.claim(*entry, "token", "worker"):
            return number
    return None


@only_valkey
def test_a_retry_whose_lease_ran_out_is_not_appended_to_what_others_wrote(
    redis_client: redis.Redis,
) -> None:
    with edited_scripts({}):
        assert written_with_a_retry_after_a_lost_lease(redis_client) == ["1", "2"]
    redis_client.flushdb()
    with edited_scripts(RETRY_BY_ID):
        assert written_with_a_retry_after_a_lost_lease(redis_client) == ["1", "2", "1"]


@only_valkey
def test_a_popped_session_is_found_though_the_clock_stepped_back(redis_client: redis.Redis) -> None:
    with edited_scripts({}):
        rounds = rounds_until_found_after_the_clock_stepped_back(redis_client)
        assert rounds is not None
        assert rounds <= 2
    redis_client.flushdb()
    with edited_scripts(RESCUE_BY_TIME):
        assert rounds_until_found_after_the_clock_stepped_back(redis_client) is None


@only_valkey
def test_a_worker_slower_than_the_grace_gets_its_claim(redis_client: redis.Redis) -> None:
    with edited_scripts({}):
        assert claims_until_one_succeeds_on_a_slow_worker(redis_client) == 1
    redis_client.flushdb()
    with edited_scripts(CLAIM_BY_THE_NEWEST_NUMBER):
        assert claims_until_one_succeeds_on_a_slow_worker(redis_client) is None
