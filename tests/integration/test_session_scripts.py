"""The contract of each session script, by example, on every kind of server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from hermes_tasks.testing.servers import Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.answers import (
    Claimed,
    Completed,
    Doubt,
    Entry,
    Exchanged,
    Outcome,
    PushAnswer,
)
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.lease import BatchMessage, SessionLease
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.scripts import script
from hermes_tasks.transport.sessions import SessionStore

S = "default:ws:s"
OPTIONS = SessionOptions(
    waiting_limit=3, backlog_limit=2, batch_messages=3, batch_size=5, max_attempts=3
)
LANDING = OPTIONS.landing_ms
ODD = ["a b", "%", "%20", "a%20b", "ü", "zeile\nzwei", "\t", "🦀", "x" * 2000, "-", "1 2 3"]


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix), OPTIONS)


def push(store: SessionStore, *ids: str, session: str = S, **options: Any) -> list[PushAnswer]:
    options.setdefault("kind", "k")
    return [store.push(session, f"text of {id}", id=id, **options) for id in ids]


def pop(store: SessionStore) -> tuple[str, int]:
    """The oldest entry of the run queue, as arguments of ``claim``."""
    raw: Any = store.client.rpop(store.names.run)
    assert raw is not None, "the run queue is empty"
    number, session = json.loads(raw)
    return session, int(number)


def claim(store: SessionStore, token: str = "t") -> Claimed:
    claimed = store.claim(*pop(store), token, "worker")
    assert claimed is not None
    return claimed


def ids_of(claimed: Claimed) -> list[str]:
    return [item.id for item in claimed.items]


def complete(store: SessionStore, outcome: Outcome, id: str = "", token: str = "t") -> str:
    return store.complete(S, token, outcome, id).state


def let_the_lease_run_out(store: SessionStore) -> None:
    store.client.zadd(store.names.leases, {S: 1})


def let_the_wait_end(store: SessionStore) -> None:
    store.client.zadd(store.names.sleeping, {S: 1})
    assert store.wake(S)


def another_redis_process_answers(store: SessionStore) -> None:
    script("epoch")(store.client, [store.names.meta], ["another process"])


def redis_ms(store: SessionStore) -> int:
    seconds, micros = store.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


# -- push -----------------------------------------------------------------------------------------


def test_a_first_message_is_accepted_and_queues_its_session(store: SessionStore) -> None:
    assert push(store, "1") == [PushAnswer("accepted", 1)]
    assert pop(store) == (S, 1)


def test_further_messages_are_numbered_and_queue_nothing(store: SessionStore) -> None:
    assert [answer.number for answer in push(store, "1", "2", "3")] == [1, 2, 3]
    assert store.client.llen(store.names.run) == 1


def test_an_id_that_is_queued_is_a_duplicate_wherever_it_is(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    push(store, *"4567")
    progress = store.progress(S)
    assert (progress.inflight, progress.backlog, progress.waiting) == (3, 1, 3)
    assert {answer.status for answer in push(store, *"1234567")} == {"duplicate"}


def test_a_senders_last_id_is_a_duplicate_though_it_is_written(store: SessionStore) -> None:
    push(store, "1", sender="g", sent=5)
    push(store, "2", sender="h", sent=5)
    claim(store)
    store.commit(S, "t", ["1", "2"])
    complete(store, Outcome.ENDED)
    assert [a.status for a in push(store, "1", "2")] == ["duplicate", "duplicate"]
    assert store.progress(S).state == "idle"


def test_a_gateway_that_repeats_itself_brings_no_dead_letter_back(store: SessionStore) -> None:
    push(store, "1", sender="g", sent=1)
    claim(store)
    store.bury(S, "t", "1", reason="poison")
    complete(store, Outcome.ENDED)
    push(store, "2", sender="g", sent=2, previous=1)
    assert push(store, "1", sender="g", sent=1)[0].status == "duplicate"
    # Who has no outbox sends nothing by itself: it was asked to.
    assert push(store, "1")[0].status == "accepted"


def test_a_message_whose_predecessor_never_arrived_is_a_gap(store: SessionStore) -> None:
    push(store, "1", sender="g", sent=1)
    assert push(store, "3", sender="g", sent=3, previous=2) == [PushAnswer("gap", 0)]
    assert push(store, "2", sender="g", sent=2, previous=1)[0].status == "accepted"
    assert push(store, "3", sender="g", sent=3, previous=2)[0].status == "accepted"


def test_no_gap_is_seen_where_the_sender_is_not_remembered(store: SessionStore) -> None:
    assert push(store, "3", sender="g", sent=3, previous=2)[0].status == "accepted"


def test_repeating_an_old_message_makes_no_gap_of_the_next(store: SessionStore) -> None:
    push(store, "1", sender="g", sent=1)
    push(store, "2", sender="g", sent=2, previous=1)
    push(store, "3", sender="g", sent=3, previous=2)
    claim(store)
    store.commit(S, "t", ["1"])
    assert push(store, "1", sender="g", sent=1)[0].status == "accepted"
    assert push(store, "4", sender="g", sent=4, previous=3)[0].status == "accepted"


def test_overflow_goes_to_the_backlog_and_then_gives_up_the_oldest(store: SessionStore) -> None:
    answers = push(store, *"1234567")
    assert [answer.dropped for answer in answers] == [(), (), (), (), (), ("1",), ("2",)]
    assert store.progress(S).first_unsettled == 3
    assert [letter["id"] for letter in store.dead_letters()] == ["2", "1"]
    assert {letter["reason"] for letter in store.dead_letters()} == {"overflow"}
    assert ids_of(claim(store)) == ["3", "4", "5"]


def test_messages_in_flight_are_never_dropped(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claimed = claim(store)
    push(store, *(str(number) for number in range(4, 30)))
    assert store.commit(S, "t", ids_of(claimed))
    assert store.counters()["written"] == 3


def test_no_number_of_pushers_exceeds_the_bound(server: Server, store: SessionStore) -> None:
    answers: list[PushAnswer] = []

    def pusher(name: str) -> None:
        with server.client() as client:
            mine = SessionStore(client, store.names, OPTIONS)
            for number in range(40):
                answers.extend(push(mine, f"{name}{number}"))

    threads = [threading.Thread(target=pusher, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress = store.progress(S)
    assert (progress.waiting, progress.backlog) == (3, 2)
    assert sum(len(answer.dropped) for answer in answers) == 160 - 5
    assert sorted(answer.number for answer in answers) == list(range(1, 161))


def test_a_delayed_message_lets_its_session_sleep_until_it_is_due(store: SessionStore) -> None:
    push(store, "1", delay=60)
    progress = store.progress(S)
    assert progress.state == "sleeping"
    assert progress.wake_at_ms is not None
    assert 58_000 < progress.wake_at_ms - redis_ms(store) <= 60_000
    assert not store.wake(S)


def test_a_delayed_follower_is_not_taken_before_its_time(store: SessionStore) -> None:
    push(store, "1")
    push(store, "2", delay=60)
    assert ids_of(claim(store)) == ["1"]


def test_a_delayed_message_waits_though_its_session_was_ready(store: SessionStore) -> None:
    push(store, "1")
    store.purge(S)
    push(store, "2", delay=60)
    assert store.claim(*pop(store), "t", "worker") is None
    assert store.progress(S).state == "sleeping"


@pytest.mark.parametrize("options", [{"id": ""}, {"size": -1}, {"kind": ""}, {"kind": "a b"}])
def test_what_could_not_be_read_again_is_refused_whole(
    store: SessionStore, options: dict[str, Any]
) -> None:
    with pytest.raises(redis.ResponseError, match="cannot be stored"):
        store.push(S, "text", **{"id": "1", **options})
    assert store.client.keys("*") == []


# -- odd content ----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ODD, ids=ascii)
def test_any_id_survives_the_whole_way(store: SessionStore, id: str) -> None:
    push(store, "first", id, "last")
    assert push(store, id)[0].status == "duplicate"
    assert ids_of(claim(store)) == ["first", id, "last"]
    assert store.commit(S, "t", ["first"])
    assert store.bury(S, "t", id, reason="poison") == ""
    assert store.dead_letters()[0]["id"] == id
    assert store.progress(S).first_unsettled == 3


@pytest.mark.parametrize("id", ODD, ids=ascii)
def test_any_id_is_named_when_it_overflows(store: SessionStore, id: str) -> None:
    push(store, id, *"12345")
    assert push(store, "6")[0].dropped == ("1",)
    assert [letter["id"] for letter in store.dead_letters()] == ["1", id]


@pytest.mark.parametrize(
    "name", [*ODD, ":", "a:b:c", "s:ids", "s:waiting", "s:inflight", "s:backlog", "s%3Aids"]
)
def test_any_session_name_is_a_session_of_its_own(store: SessionStore, name: str) -> None:
    neighbours = ["s", f"{name}:ids", f"{name}:waiting", name.replace(":", "%3A") + "-"]
    for session in neighbours:
        store.push(session, "text", id="1")
    store.push(name, "text", id="1")
    for session in [*neighbours, name]:
        assert store.progress(session).waiting == 1
        claimed = store.claim(*pop(store), f"t {session}", "worker")
        assert claimed is not None
        assert claimed.session == session
        assert store.renew([(session, claimed.token)]) == [True]
        assert store.complete(session, claimed.token, Outcome.SETTLED, "1").state == "idle"


@pytest.mark.parametrize(
    "message", ["", " ", "\n", "a\nb", "1 2 3 4 5 6", "\0", "ü🦀" * 3, "x" * 2**20], ids=len
)
def test_any_message_arrives_as_it_was_sent(store: SessionStore, message: str) -> None:
    store.push(S, message, id="1")
    assert claim(store).items[0].message == message.encode()
    store.push(S, message + "retried", id="1", token="t")
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    assert claim(store).items[0].message == (message + "retried").encode()
    store.bury(S, "t", "1", reason="poison")
    letters: Any = store.client.xrange(store.names.dead)
    ((_, letter),) = letters
    assert letter[b"message"] == (message + "retried").encode()


@pytest.mark.parametrize("size", [0, 6, 10**18, 10**400], ids=["0", "6", "10**18", "10**400"])
def test_a_message_larger_than_a_batch_goes_alone(store: SessionStore, size: int) -> None:
    push(store, "1", size=size)
    push(store, "2")
    assert ids_of(claim(store)) == (["1"] if size > 5 else ["1", "2"])


def test_large_numbers_keep_their_digits(store: SessionStore) -> None:
    store.client.hset(store.names.session(S)[0], "accepted", 10**15)
    store.client.hset(store.names.meta, "number", 10**15)
    sent = 2**52
    assert push(store, "1", sender="g", sent=sent)[0].number == 10**15 + 1
    assert push(store, "2", sender="g", sent=sent + 2, previous=sent + 1)[0].status == "gap"
    assert push(store, "2", sender="g", sent=sent + 1, previous=sent)[0].status == "accepted"
    assert pop(store) == (S, 10**15 + 1)


# -- claim ----------------------------------------------------------------------------------------


def test_a_batch_holds_neighbours_of_one_kind_up_to_the_bounds(store: SessionStore) -> None:
    push(store, "1", size=2)
    push(store, "2", size=3)
    push(store, "3", size=1)
    assert ids_of(claim(store)) == ["1", "2"]
    store.commit(S, "t", ["1", "2"])
    complete(store, Outcome.ENDED)
    push(store, "4", kind="other")
    push(store, "5")
    assert ids_of(claim(store)) == ["3"]


def test_messages_of_no_kind_go_alone(store: SessionStore) -> None:
    push(store, "1", "2", kind="-")
    assert ids_of(claim(store)) == ["1"]


def test_only_one_of_several_entries_gives_the_session(store: SessionStore) -> None:
    push(store, "1")
    entry = pop(store)
    assert store.claim(*entry, "t", "worker") is not None
    assert store.claim(*entry, "other", "worker") is None
    assert store.claim(S, 10**6, "other", "worker") is None


def test_a_claim_may_be_asked_for_again(store: SessionStore) -> None:
    push(store, "1", "2")
    entry = pop(store)
    first, second = (store.claim(*entry, "t", "worker") for _ in range(2))
    assert first is not None
    assert second is not None
    assert replace(first, now=second.now) == second
    store.commit(S, "t", ["1", "2"])
    assert store.claim(*entry, "t", "worker") is None
    assert store.progress(S).state == "leased"
    assert complete(store, Outcome.ENDED) == "idle"


def test_an_entry_of_a_purged_session_gives_nothing_and_leaves_nothing(
    store: SessionStore,
) -> None:
    push(store, "1", "2")
    assert store.purge(S) == 2
    assert store.claim(*pop(store), "t", "worker") is None
    assert store.progress(S).state == "idle"
    assert store.client.zcard(store.names.ready) == 0


def test_after_a_failed_attempt_the_head_goes_alone(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    complete(store, Outcome.FAILED)
    let_the_wait_end(store)
    again = claim(store)
    assert (ids_of(again), again.attempts) == (["1"], 1)
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "ready"
    assert ids_of(claim(store)) == ["2", "3"]


# -- begin, commit, renew -------------------------------------------------------------------------


def test_what_a_call_may_have_written_is_claimed_as_such_until_it_is_settled(
    store: SessionStore,
) -> None:
    push(store, "1", "2", "3")
    assert not claim(store).again
    before = redis_ms(store)
    assert store.begin(S, "t", 1, 2)
    after = redis_ms(store)
    complete(store, Outcome.FAILED)
    let_the_wait_end(store)
    doubt = claim(store).doubt
    assert doubt is not None
    assert (doubt.first, doubt.last, doubt.asked) == (1, 2, 0)
    assert before <= doubt.until - LANDING <= after
    store.commit_found(S, "t", ["1"])
    complete(store, Outcome.ENDED)
    following = claim(store)
    assert (ids_of(following), following.doubt) == (["2", "3"], doubt)
    store.commit(S, "t", ["2"])
    complete(store, Outcome.ENDED)
    last = claim(store)
    assert (ids_of(last), last.again) == (["3"], False)


def test_the_latest_call_that_may_land_counts_for_all_that_any_may_have_written(
    store: SessionStore,
) -> None:
    push(store, "1", "2", "3")
    claim(store)
    store.begin(S, "t", 1, 3)
    store.client.hset(store.names.session(S)[0], "intent", "1 3 17 1")
    before = redis_ms(store)
    store.begin(S, "t", 1, 1)
    complete(store, Outcome.RELEASED)
    doubt = claim(store).doubt
    assert doubt is not None
    assert (doubt.first, doubt.last, doubt.asked) == (1, 3, 0)
    assert doubt.until >= before + LANDING


def test_a_call_that_was_answered_leaves_nothing_that_may_land(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    # whether it has not written
    store.begin(S, "t", 1, 3)
    assert store.postpone(S, "t", 0, most=9, in_doubt=False)
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    assert claim(store).doubt == Doubt(1, 3, 0, 0)
    # or has
    store.begin(S, "t", 1, 1)
    store.commit(S, "t", ["1"])
    complete(store, Outcome.ENDED)
    assert claim(store).doubt == Doubt(1, 3, 0, 0)


def test_what_an_earlier_call_may_write_waits_for_its_end_without_an_attempt(
    store: SessionStore,
) -> None:
    push(store, "1", "2", "3")
    claim(store, "dying")
    store.begin(S, "dying", 1, 3)
    let_the_lease_run_out(store)
    complete(store, Outcome.LAPSED, token="")
    claimed = claim(store)
    assert claimed.doubt is not None
    assert store.wait(S, "t", 1, 3, claimed.doubt.until)
    assert not store.wait(S, "t", 1, 3, claimed.doubt.until)
    assert store.progress(S).wake_at_ms == claimed.doubt.until
    assert complete(store, Outcome.ENDED, "1") == "lost"
    let_the_wait_end(store)
    again = claim(store)
    assert (again.attempts, again.tries, len(again.items)) == (1, 0, 1)
    assert again.doubt == replace(claimed.doubt, asked=1)
    trace = store.bury(S, "t", "1", reason="poison")
    assert trace is not None
    assert lines_of(trace)[-1] == "held: an earlier call may still land"
    assert store.counters()["awaited"] == 1


def test_a_clock_that_steps_back_does_not_make_a_session_wait_for_the_step(
    store: SessionStore,
) -> None:
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    complete(store, Outcome.RELEASED)
    late = redis_ms(store) + 3_600_000
    store.client.hset(store.names.session(S)[0], "intent", f"1 1 {late} 0")
    doubt = claim(store).doubt
    assert doubt is not None
    assert doubt.until <= redis_ms(store) + LANDING


def test_what_was_written_in_doubt_is_remembered_until_it_is_found_twice(
    store: SessionStore,
) -> None:
    store.options = replace(OPTIONS, batch_messages=50, batch_size=100, waiting_limit=64)
    ids = [f"{number} %" for number in range(1, 31)]
    push(store, *ids)
    claim(store)
    assert store.commit(S, "t", ids[:2])  # nothing was in doubt
    assert store.commit(S, "t", ids[2:20], doubtful=20)
    complete(store, Outcome.ENDED)
    claimed = claim(store)
    assert claimed.rewritten == tuple(ids[4:20])
    found = [ids[20], ids[21]]
    for _ in range(2):  # a client may repeat it
        assert store.commit_found(S, "t", found, twice=[ids[7], found[1], "unknown"])
        assert store.counters()["twice"] == 2
    assert store.commit(S, "t", ids[22:30], doubtful=23)
    complete(store, Outcome.ENDED)
    push(store, "last")
    assert claim(store).rewritten == (*ids[4:7], *ids[8:20], ids[22])
    assert store.counters()["written"] == 30


def test_the_highest_number_that_is_written_is_known(store: SessionStore) -> None:
    def written() -> Any:
        return store.client.hget(store.names.session(S)[0], "written")

    push(store, "1", "2", "3")
    claim(store)
    assert store.commit_found(S, "t", ["2"])
    assert store.commit(S, "t", ["1"])
    assert written() == b"2"
    assert store.bury(S, "t", "3", reason="poison") is not None
    assert written() == b"2"
    complete(store, Outcome.ENDED)
    push(store, "4")
    claim(store)
    assert complete(store, Outcome.SETTLED, "4") == "idle"
    assert written() == b"4"


def test_a_worker_that_lost_its_lease_changes_nothing(store: SessionStore) -> None:
    push(store, "1", "2")
    claim(store, "old")
    let_the_lease_run_out(store)
    assert complete(store, Outcome.LAPSED, token="") == "ready"
    assert ids_of(claim(store, "new")) == ["1"]
    before = store.client.hgetall(store.names.session(S)[0])
    assert not store.begin(S, "old", 1, 2)
    assert not store.commit(S, "old", ["1", "2"])
    assert store.renew([(S, "old"), (S, "new")]) == [False, True]
    assert complete(store, Outcome.SETTLED, "1", token="old") == "lost"
    assert push(store, "1", token="old")[0].status == "stale"
    assert store.client.hgetall(store.names.session(S)[0]) == before


def test_a_call_that_writes_nothing_leaves_no_doubt(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    assert store.begin(S, "t", 0, 0)
    complete(store, Outcome.RELEASED)
    assert claim(store).doubt is None


def test_renewing_and_beginning_extend_the_lease(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    for extend in (
        lambda: store.renew([(S, "t")]),
        lambda: store.begin(S, "t", 1, 1),
        lambda: store.begin(S, "t", 0, 0),
    ):
        let_the_lease_run_out(store)
        assert extend()
        assert store.client.zscore(store.names.leases, S) > redis_ms(store)  # type: ignore[operator]


def test_a_message_is_settled_once_in_any_order(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    assert store.bury(S, "t", "2", reason="poison", detail="422") == ""
    assert store.commit(S, "t", ["1", "2"])
    assert store.progress(S).first_unsettled == 3
    counters = store.counters()
    assert [counters[name] for name in ("accepted", "written", "dead:poison")] == [3, 1, 1]
    letter = store.dead_letters()[0]
    assert (letter["session"], letter["detail"], letter["number"]) == (S, "422", "2")
    assert "message" not in letter


# -- complete -------------------------------------------------------------------------------------


def acknowledge(store: SessionStore, *written: str, token: str = "t") -> str:
    return store.complete(S, token, Outcome.WRITTEN, written[0], written=written).state


def test_an_acknowledgement_settles_what_its_task_has_written(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    assert store.begin(S, "t", 1, 2)
    assert acknowledge(store, "1", "2") == "ready"
    assert (store.counters()["written"], store.progress(S).first_unsettled) == (2, 3)
    claimed = claim(store, "next")
    assert (ids_of(claimed), claimed.doubt, claimed.attempts) == (["3"], None, 0)


def test_an_acknowledgement_settles_nothing_that_it_does_not_name(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    assert acknowledge(store, "2", "3") == "sleeping", "the head was not written"
    assert "written" not in store.counters()
    assert store.progress(S).inflight == 3


def test_the_acknowledgement_of_a_lost_lease_settles_nothing(store: SessionStore) -> None:
    push(store, "1")
    claim(store, "old")
    let_the_lease_run_out(store)
    complete(store, Outcome.LAPSED, token="")
    claim(store, "new")
    assert acknowledge(store, "1", token="old") == "lost"
    assert "written" not in store.counters()
    assert acknowledge(store, "1", token="new") == "idle"
    assert acknowledge(store, "1", token="new") == "lost", "a client may repeat the call"
    assert store.counters()["written"] == 1


def leased(store: SessionStore, **more: Any) -> SessionLease:
    claimed = claim(store)
    messages = [BatchMessage(item.id, item.number, 0, [], {}, {}) for item in claimed.items]
    return SessionLease(store, S, "t", messages, attempts=0, doubt=claimed.doubt, **more)


def test_a_batch_that_is_written_as_a_whole_is_left_to_the_acknowledgement(
    store: SessionStore,
) -> None:
    push(store, "1", "2")
    lease = leased(store)
    lease.commit(["1", "2"], at_end=True)
    assert (lease.settles, store.progress(S).inflight) == (2, 2)


def test_a_batch_of_which_a_part_is_settled_is_not(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    lease = leased(store)
    lease.commit(["1"], at_end=True)
    lease.bury("2", "poison")
    lease.commit(["3"], at_end=True)
    assert (lease.settles, store.progress(S).inflight) == (0, 0)


def test_a_batch_is_not_where_results_are_kept(store: SessionStore) -> None:
    push(store, "1")
    settled = list[int]()
    lease = leased(store, record=lambda *_: settled.append(store.counters()["written"]))
    lease.commit(["1"], at_end=True)
    assert (lease.settles, settled) == (0, [1]), "its result comes after it was settled"


def test_what_an_acknowledgement_settles_is_announced(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    client: Any = store.client
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(store.names.channel(S))
    listener.get_message(timeout=5)
    store.watch(S, 1)
    acknowledge(store, "1")
    assert listener.get_message(timeout=5) is not None
    listener.close()


@pytest.mark.parametrize(
    ("outcome", "state", "counter"),
    [
        (Outcome.ENDED, "sleeping", "failed"),
        (Outcome.SETTLED, "idle", "written"),
        (Outcome.REVOKED, "idle", "dead:revoked"),
        (Outcome.EXPIRED, "idle", "dead:expired"),
        (Outcome.FAILED, "sleeping", "failed"),
        (Outcome.RELEASED, "ready", None),
        (Outcome.LAPSED, "ready", "failed"),
    ],
)
def test_each_outcome_of_an_unsettled_head(
    store: SessionStore, outcome: Outcome, state: str, counter: str | None
) -> None:
    push(store, "1")
    claim(store)
    if outcome is Outcome.LAPSED:
        assert complete(store, outcome, token="") == "lost"
        let_the_lease_run_out(store)
    assert complete(store, outcome, "1") == state
    assert complete(store, outcome, "1") == "lost"
    counters = {k: v for k, v in store.counters().items() if not k.startswith("lag")}
    assert counters == {"accepted": 1} | ({counter: 1} if counter else {})


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_of_a_settled_batch_lets_the_session_go_on(
    store: SessionStore, outcome: Outcome
) -> None:
    push(store, "1", "2", "3", "4")
    claim(store)
    store.commit(S, "t", ["1", "2", "3"])
    let_the_lease_run_out(store)
    assert complete(store, outcome, "1") == "ready"
    assert ids_of(claim(store)) == ["4"]


def test_progress_makes_the_rest_ready_at_once_and_forgets_failures(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    complete(store, Outcome.FAILED)
    let_the_wait_end(store)
    claim(store)
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.FAILED) == "ready"
    assert claim(store).attempts == 0


@pytest.mark.parametrize("outcome", [Outcome.ENDED, Outcome.FAILED, Outcome.LAPSED])
def test_a_head_that_fails_too_often_is_given_up_and_the_next_goes_on(
    store: SessionStore, outcome: Outcome
) -> None:
    push(store, "1", "2")
    states = []
    for _ in range(OPTIONS.max_attempts):
        claim(store)
        let_the_lease_run_out(store)
        states.append(complete(store, outcome))
        if states[-1] == "sleeping":
            let_the_wait_end(store)
    assert states[-1] == "dead"
    assert "dead" not in states[:-1]
    assert [(d["id"], d["reason"]) for d in store.dead_letters()] == [("1", "attempts")]
    following = claim(store)
    assert (ids_of(following), following.attempts) == (["2"], 0)


def test_a_release_is_no_attempt_however_often(store: SessionStore) -> None:
    push(store, "1")
    for _ in range(2 * OPTIONS.max_attempts):
        assert claim(store).attempts == 0
        assert complete(store, Outcome.RELEASED) == "ready"


def test_waits_after_failures_double_with_jitter_up_to_the_longest(store: SessionStore) -> None:
    store.options = SessionOptions(retry_first=1, retry_longest=5, max_attempts=10)
    push(store, "1")
    for longest in (1, 2, 4, 5, 5):
        claim(store)
        complete(store, Outcome.FAILED)
        wake_at = store.progress(S).wake_at_ms
        assert wake_at is not None
        assert longest * 500 - 200 < wake_at - redis_ms(store) <= longest * 1000
        let_the_wait_end(store)


def test_a_retry_replaces_the_head_in_place_and_sets_the_wake_time(store: SessionStore) -> None:
    push(store, "1", "2")
    claim(store)
    assert store.push(S, "second try", id="1", token="t", delay=60) == PushAnswer("retried", 1)
    assert complete(store, Outcome.SETTLED, "1") == "sleeping"
    assert store.progress(S).attempts == 0
    assert store.progress(S).wake_at_ms > redis_ms(store) + 50_000  # type: ignore[operator]
    let_the_wait_end(store)
    again = claim(store)
    assert [item.message for item in again.items] == [b"second try"]


def test_a_retry_forgets_the_failures_before_it(store: SessionStore) -> None:
    """While a service is away for days, workers die now and then: that gives no message up."""
    push(store, "1")
    for _ in range(2 * OPTIONS.max_attempts):
        claim(store)
        let_the_lease_run_out(store)
        assert complete(store, Outcome.LAPSED) == "ready"
        assert claim(store).attempts == 1
        store.push(S, "once more", id="1", token="t", delay=60)
        assert complete(store, Outcome.ENDED, "1") == "sleeping"
        let_the_wait_end(store)
    assert claim(store).attempts == 0


def test_a_retry_of_a_head_that_was_committed_brings_it_not_back(store: SessionStore) -> None:
    push(store, "1", "2")
    claim(store)
    store.commit(S, "t", ["1"])
    push(store, "1", token="t")
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    assert ids_of(claim(store)) == ["2"]


def test_an_idle_session_is_remembered_for_a_day_and_holds_nothing(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "idle"
    own: Any = store.client.keys(f"*session:{S}*")
    assert [key.decode() for key in own] == [store.names.session(S)[0]]
    assert 86_000 < store.client.ttl(store.names.session(S)[0]) <= 86_400
    push(store, "1", token="t")  # a retry that comes too late
    assert store.client.ttl(store.names.session(S)[0]) > 0
    push(store, "2")
    assert store.client.ttl(store.names.session(S)[0]) == -1


def exchange(store: SessionStore, session: str, token: str, **options: Any) -> Exchanged:
    options = {"reserved": None, "fresh": "next", "worker": "w", "plenty": 2} | options
    return store.exchange(session, token, Outcome.SETTLED, "1", **options)


def test_an_exchange_takes_the_next_entry_and_reserves_one_while_there_is_plenty(
    store: SessionStore,
) -> None:
    for session in ("a", "b", "c", "d", "e"):
        push(store, "1", session=session)
    claim(store)
    first = exchange(store, "a", "t")
    assert first.completed == Completed("idle")
    assert first.claimed is None
    assert first.entry is not None
    assert first.reserved is not None
    assert [Entry.parse(entry).session for entry in (first.entry, first.reserved)] == ["b", "c"]

    store.claim("b", Entry.parse(first.entry).number, "t", "w")
    second = exchange(store, "b", "t", reserved=Entry.parse(first.reserved))
    assert second.claimed is not None
    assert (second.claimed.session, second.claimed.token) == ("c", "next")
    assert [item.id for item in second.claimed.items] == ["1"]
    assert (second.entry, second.reserved) == (None, None), "only d and e wait: that is not plenty"


def test_an_exchange_takes_another_entry_when_the_reserved_one_is_no_longer_true(
    store: SessionStore,
) -> None:
    for session in ("a", "b", "c"):
        push(store, "1", session=session)
    claim(store)
    session, number = pop(store)
    ahead = Entry(number, session)
    store.claim("b", ahead.number, "another", "w")
    found = exchange(store, "a", "t", reserved=ahead)
    assert found.claimed is None
    assert found.entry is not None
    assert Entry.parse(found.entry).session == "c"


def test_an_exchange_leaves_to_others_what_it_queues_if_they_may_wait_for_it(
    store: SessionStore,
) -> None:
    push(store, "1", session="a")
    push(store, "2", session="a")
    claim(store)
    assert exchange(store, "a", "t", full=False) == Exchanged(Completed("ready"))
    # Nobody waits while something is there,
    push(store, "1", session="b")
    session, number = pop(store)
    assert session == "a"
    store.claim("a", number, "t", "w")
    found = exchange(store, "a", "t", full=False)
    assert found.entry is not None
    assert Entry.parse(found.entry).session == "b"


def test_an_exchange_for_the_only_slot_takes_what_it_queues(store: SessionStore) -> None:
    push(store, "1", session="a")
    push(store, "2", session="a")
    claim(store)
    found = exchange(store, "a", "t", full=True)
    assert found.entry is not None
    assert Entry.parse(found.entry).session == "a"


def test_an_exchange_takes_nothing_while_another_queue_has_messages(store: SessionStore) -> None:
    for session in ("a", "b", "c"):
        push(store, "1", session=session)
    claim(store)
    session, number = pop(store)
    ahead = Entry(number, session)
    store.client.rpush("other", "message")
    found = exchange(store, "a", "t", reserved=ahead, unless=["other"])
    assert found == Exchanged(Completed("idle"))
    assert pop(store) == (session, number), "it was not given back"


# -- postpone, note, and what is told of a message that is given up -------------------------------


def lines_of(trace: str) -> list[str]:
    """A trace without the times, which must not go back."""
    times, texts = zip(*(line.split(" ", 1) for line in trace.splitlines()), strict=True)
    assert sorted(times, key=int) == list(times)
    return list(texts)


def test_an_item_knows_when_it_was_accepted_whatever_becomes_of_it(store: SessionStore) -> None:
    before = redis_ms(store)
    push(store, "1")
    after = redis_ms(store)
    push(store, "2", delay=60)
    (item,) = claim(store).items
    assert before <= item.accepted <= after
    push(store, "1", token="t", delay=60)
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    again = claim(store)
    assert again.items[0].accepted == item.accepted
    assert before <= again.now <= redis_ms(store)
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "sleeping"
    due = store.progress(S).wake_at_ms
    assert due is not None
    assert after + 58_000 < due <= redis_ms(store) + 60_000


def test_a_clock_that_steps_back_delays_no_message_that_was_accepted_before(
    store: SessionStore,
) -> None:
    push(store, "1", "2")
    waiting = store.names.session(S)[2]
    items: Any = store.client.lrange(waiting, 0, -1)
    for index, raw in enumerate(items):
        *first, since, text = raw.decode().split(" ", 5)
        later = str(int(since) + 3_600_000)
        store.client.lset(waiting, index, " ".join((*first, later, text)))
    assert ids_of(claim(store)) == ["1", "2"]


def test_a_postponed_session_sleeps_without_an_attempt_and_keeps_its_size(
    store: SessionStore,
) -> None:
    push(store, "1", "2", "3")
    for tries in (0, 1, 2):
        claimed = claim(store)
        assert (claimed.tries, claimed.attempts) == (tries, 0)
        assert len(claimed.items) == (3 if tries == 0 else 2)
        assert store.postpone(S, "t", 60, most=2, note="503")
        assert complete(store, Outcome.ENDED, "1") == "sleeping"
        wake_at = store.progress(S).wake_at_ms
        assert wake_at is not None
        assert 58_000 < wake_at - redis_ms(store) <= 60_000
        let_the_wait_end(store)
    claim(store)
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "ready"
    following = claim(store)
    assert (following.tries, ids_of(following)) == (0, ["2", "3"])


@pytest.mark.parametrize("outcome", [Outcome.SETTLED, Outcome.REVOKED, Outcome.FAILED])
def test_what_is_postponed_is_not_settled_by_its_acknowledgement(
    store: SessionStore, outcome: Outcome
) -> None:
    push(store, "1")
    claim(store)
    store.postpone(S, "t", 60)
    assert complete(store, outcome, "1") == "sleeping"
    assert store.progress(S).first_unsettled == 1


def test_postponing_under_a_claim_counts_once_and_the_latest_wait_holds(
    store: SessionStore,
) -> None:
    push(store, "1")
    claim(store)
    store.postpone(S, "t", 1, note="503")
    store.postpone(S, "t", 60, note="503")
    complete(store, Outcome.ENDED)
    wake_at = store.progress(S).wake_at_ms
    assert wake_at is not None
    assert wake_at - redis_ms(store) > 58_000
    let_the_wait_end(store)
    assert claim(store).tries == 1
    assert lines_of(store.bury(S, "t", "1", reason="old") or "") == ["503"]


def test_progress_before_postponing_leaves_the_rest_the_size_that_was_asked_for(
    store: SessionStore,
) -> None:
    push(store, "1", "2", "3")
    claim(store)
    store.commit(S, "t", ["1"])
    store.postpone(S, "t", 0, most=1)
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    again = claim(store)
    assert (ids_of(again), again.tries) == (["2"], 1)


def test_nobody_postpones_or_notes_without_the_lease(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    before = store.client.hgetall(store.names.session(S)[0])
    assert not store.postpone(S, "other", 1, note="503")
    assert not store.note(S, "other", "503")
    assert store.bury(S, "other", "1", reason="old") is None
    assert store.client.hgetall(store.names.session(S)[0]) == before


def test_a_head_given_up_tells_what_it_went_through(store: SessionStore) -> None:
    push(store, "1", "2")
    claim(store)
    store.postpone(S, "t", 0, note="no answer within 5.0 s")
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    claim(store)
    store.push(S, "again", id="1", token="t", delay=2)
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    claim(store)
    store.note(S, "t", "InvalidTurn:\n no\x00 session")
    complete(store, Outcome.ENDED)
    let_the_wait_end(store)
    claim(store)
    let_the_lease_run_out(store)
    assert complete(store, Outcome.LAPSED, token="") == "ready"
    claim(store)
    done = store.complete(S, "t", Outcome.FAILED, "1")
    assert (done.state, done.given_up) == ("dead", "1")
    assert lines_of(done.trace) == [
        "no answer within 5.0 s",
        "retried, in 2.0 s",
        "InvalidTurn: no  session",
        "attempt 2 lost its lease",
        "attempt 3 was rejected",
    ]
    assert store.dead_letters()[0]["trace"] == done.trace
    claim(store)
    assert store.bury(S, "t", "2", reason="poison") == ""
    assert store.dead_letters()[0]["trace"] == ""


def test_a_trace_is_of_the_head_and_ends_with_it(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    store.note(S, "t", "one")
    assert store.bury(S, "t", "2", reason="poison") == ""
    trace = store.bury(S, "t", "1", reason="poison", detail="422")
    assert lines_of(trace or "") == ["one"]
    store.note(S, "t", "three")
    trace = store.bury(S, "t", "3", reason="poison")
    assert lines_of(trace or "") == ["three"]


@pytest.mark.parametrize("outcome", [Outcome.REVOKED, Outcome.EXPIRED])
def test_what_was_revoked_keeps_its_trace(store: SessionStore, outcome: Outcome) -> None:
    push(store, "1", "2")
    claim(store)
    store.note(S, "t", "503")
    complete(store, outcome, "1")
    assert lines_of(store.dead_letters()[0]["trace"]) == ["503"]
    claim(store)
    assert store.bury(S, "t", "2", reason="poison") == ""


def test_of_a_long_trace_the_beginning_and_the_end_are_kept(store: SessionStore) -> None:
    push(store, "1")
    claim(store)
    for number in range(100):
        store.note(S, "t", f"{number} ü")
    kept = [*range(10), *range(70, 100)]
    trace = store.bury(S, "t", "1", reason="old")
    assert lines_of(trace or "") == [f"{number} ü" for number in kept]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_any_text_is_one_line_of_a_trace(store: SessionStore, text: str) -> None:
    push(store, "1")
    claim(store)
    store.note(S, "t", f"a {text}\ud800")
    assert len((store.bury(S, "t", "1", reason="old") or "").splitlines()) == 1


# -- rescue, wake, purge, progress, epoch ---------------------------------------------------------


def test_a_sweep_finds_lapsed_leases_and_due_sleepers(store: SessionStore) -> None:
    push(store, "1", session="lapsed")
    push(store, "1", session="alive")
    push(store, "1", session="due", delay=60)
    push(store, "1", session="asleep", delay=60)
    for token in ("t1", "t2"):
        claim(store, token)
    store.client.zadd(store.names.leases, {"lapsed": 1})
    store.client.zadd(store.names.sleeping, {"due": 1})
    found = store.rescue(0, 3)
    assert (found.lapsed, found.due, found.requeued) == (("lapsed",), ("due",), 0)
    assert store.rescue(60, 3).lapsed == ()


def age_the_mark(store: SessionStore) -> None:
    store.client.hset(store.names.meta, "mark_at", redis_ms(store) - 3001)


def test_a_session_popped_by_a_worker_that_died_is_queued_again_after_the_grace(
    store: SessionStore,
) -> None:
    push(store, "1")
    entry = pop(store)
    assert store.rescue(0, 3).requeued == 0
    assert store.rescue(0, 3).requeued == 0
    age_the_mark(store)
    assert store.rescue(0, 3).requeued == 1
    assert store.client.llen(store.names.run) == 1
    # Either entry is good, once.
    assert store.claim(*entry, "t", "worker") is not None
    assert store.claim(*pop(store), "other", "worker") is None


def test_sessions_that_wait_on_the_run_queue_are_left_alone(store: SessionStore) -> None:
    for session in "abc":
        push(store, "1", session=session)
    for _ in range(3):
        store.rescue(0, 3)
        age_the_mark(store)
    assert store.client.llen(store.names.run) == 3


def test_a_purged_run_queue_loses_no_session(store: SessionStore) -> None:
    for session in "abc":
        push(store, "1", session=session)
    store.client.delete(store.names.run)
    store.rescue(0, 3)
    age_the_mark(store)
    assert store.rescue(0, 3).requeued == 3


@pytest.mark.parametrize("foreign", ["not JSON", "[]", "7", '{"a": 1}', '["x", "y"]', "[null]"])
def test_a_foreign_entry_on_the_run_queue_multiplies_no_session(
    store: SessionStore, foreign: str
) -> None:
    push(store, "1")
    store.client.rpush(store.names.run, foreign)
    for _ in range(3):
        store.rescue(0, 3)
        age_the_mark(store)
    assert store.client.llen(store.names.run) == 2


def test_an_entry_given_back_is_the_next_to_be_popped(store: SessionStore) -> None:
    push(store, "1", session="a")
    push(store, "1", session="b")
    raw: Any = store.client.rpop(store.names.run)
    store.give_back(raw)
    assert pop(store) == ("a", 1)


def test_a_purge_drops_what_waits_and_not_what_a_worker_holds(store: SessionStore) -> None:
    push(store, "1", "2", "3")
    claim(store)
    push(store, *"45678")
    assert store.purge(S) == 5
    assert store.purge(S) == 0
    progress = store.progress(S)
    assert (progress.inflight, progress.waiting, progress.backlog) == (3, 0, 0)
    assert push(store, "4")[0].status == "accepted"
    assert store.counters()["purged"] == 5


def test_progress_of_an_unknown_session_is_idle_and_creates_nothing(store: SessionStore) -> None:
    progress = store.progress("nobody")
    assert (progress.state, progress.accepted, progress.first_unsettled) == ("idle", 0, None)
    assert store.client.keys("*") == []


def test_after_a_new_redis_process_answers_everything_accepted_before_is_suspect(
    store: SessionStore,
) -> None:
    assert store.note_server() == store.note_server() == 0
    push(store, "1", "2")
    assert not claim(store).again
    complete(store, Outcome.RELEASED)
    before = redis_ms(store)
    another_redis_process_answers(store)
    after = redis_ms(store)
    push(store, "3")
    for last in (1, 2):
        claimed = claim(store)
        assert claimed.doubt is not None
        assert (claimed.doubt.last, claimed.doubt.asked) == (3, 0)
        assert before <= claimed.doubt.until - LANDING <= after
        store.commit_found(S, "t", [str(last)])
        complete(store, Outcome.ENDED)
    push(store, "4")
    claimed = claim(store)
    assert claimed.again  # "3" was accepted before the first claim that knew
    store.commit_found(S, "t", ids_of(claimed))
    complete(store, Outcome.ENDED)
    push(store, "5")
    assert not claim(store).again


def test_a_redis_process_that_has_forgotten_everything_is_another_for_whom_it_answered_before(
    store: SessionStore,
) -> None:
    assert store.note_server() == 0
    assert store.note_server("another") == store.note_server("another") == 1
    assert store.note_server() == 1


def test_the_first_redis_process_ever_noted_makes_nothing_suspect(store: SessionStore) -> None:
    push(store, "1")
    assert store.note_server() == 0
    claimed = claim(store)
    assert (claimed.doubt, claimed.forgotten) == (None, 0)


def test_a_call_that_redis_forgot_with_its_message_may_land_for_a_while(
    store: SessionStore,
) -> None:
    store.note_server()
    another_redis_process_answers(store)
    at = redis_ms(store)
    push(store, "1")
    claimed = claim(store)
    assert not claimed.again
    assert at - 1_000 < claimed.forgotten - LANDING <= at
    complete(store, Outcome.RELEASED)
    store.client.hset(store.names.meta, "epoch_at", at - LANDING)
    assert claim(store).forgotten == 0


# -- the server's own moods -----------------------------------------------------------------------


def test_scripts_survive_a_script_flush(store: SessionStore) -> None:
    push(store, "1")
    store.client.script_flush()
    assert claim(store).items
    store.client.script_flush()
    assert store.commit(S, "t", ["1"])


@pytest.fixture
def full_server(make_server: Callable[..., Server]) -> Server:
    return make_server()


def test_with_its_memory_full_redis_accepts_nothing_and_lets_everything_drain(
    full_server: Server, prefix: str
) -> None:
    with full_server.client() as client:
        store = SessionStore(client, Names(prefix), replace(OPTIONS, landing=0))
        push(store, "1", "2", "3", "4")
        push(store, "1", session="dead")
        push(store, "1", session="asleep", delay=0.001)
        client.config_set("maxmemory", 1)

        for session in (S, "new"):
            with pytest.raises(redis.ResponseError):
                push(store, "9", session=session)
        assert store.progress("new").accepted == 0
        assert store.progress(S).accepted == 4

        assert store.note_server() == 0
        another_redis_process_answers(store)
        claimed = claim(store)
        assert store.begin(S, "t", 1, 3)
        assert store.renew([(S, "t")]) == [True]
        assert store.note(S, "t", "503")
        assert store.postpone(S, "t", 0, note="503")
        assert store.push(S, "second try", id="1", token="t").status == "retried"
        assert store.push(S, "second try", id="1", token="other").status == "stale"
        assert store.commit(S, "t", ids_of(claimed)[:1], doubtful=3)
        assert store.commit_found(S, "t", ids_of(claimed)[1:2], twice=["1"])
        assert store.bury(S, "t", "3", reason="poison") is not None
        assert complete(store, Outcome.ENDED) == "ready"
        claim(store, "dying")
        assert store.complete("dead", "dying", Outcome.FAILED).state == "sleeping"
        due = wait_until(lambda: store.rescue(0, 3).due, 5, "the sleeper is due")
        assert due == ("asleep",)
        assert store.wake("asleep")
        assert ids_of(claim(store)) == ["4"]
        assert store.wait(S, "t", 4, 4, redis_ms(store))
        assert wait_until(lambda: store.rescue(0, 3).due, 5, "the waiting session is due") == (S,)
        assert store.wake(S)
        assert store.claim(S, 10**6, "t", "worker") is not None
        assert store.purge(S) == 0
        assert complete(store, Outcome.SETTLED, "4") == "idle"


def test_with_its_memory_full_redis_gives_up_what_was_revoked_and_takes_back_what_was_popped(
    full_server: Server, prefix: str
) -> None:
    with full_server.client() as client:
        store = SessionStore(client, Names(prefix), OPTIONS)
        push(store, "1")
        claim(store)
        client.rpush("other", "message")
        client.config_set("maxmemory", 1)

        assert complete(store, Outcome.REVOKED, "1") == "idle"
        ahead = Entry(7, "ahead")
        found = exchange(store, S, "lost", reserved=ahead, unless=["other"])
        assert found == Exchanged(Completed("lost"))
        assert pop(store) == ("ahead", 7)
        store.give_back(str(ahead))
        assert pop(store) == ("ahead", 7)
