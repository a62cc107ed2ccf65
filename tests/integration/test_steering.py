"""An operator's hand on one session: paused, resumed, dropped, woken, waited for.

That no other session is touched, and that no order of these leaves a session stuck, is what the
machine of ``session_model`` looks for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from hermes_tasks.errors import StillSyncing
from hermes_tasks.gate import Ended, Gate, Go, Hold, Policy, State
from hermes_tasks.gateway.obstacle import in_redis, still_syncing
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.dead import DeadLetters
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.steering import Steering, Woken
from tests.integration.test_session_scripts import (
    LANDING,
    OPTIONS,
    S,
    another_redis_process_answers,
    claim,
    complete,
    ids_of,
    let_the_lease_run_out,
    let_the_wait_end,
    push,
    redis_ms,
)

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

DAY = 86_400_000


@pytest.fixture
def store(redis_client: redis.Redis, prefix: str) -> SessionStore:
    return SessionStore(redis_client, Names(prefix), OPTIONS)


@pytest.fixture
def operator(store: SessionStore) -> Steering:
    return Steering(store)


def field(store: SessionStore, name: str) -> str | None:
    found: Any = store.client.hget(store.names.session(S)[0], name)
    return None if found is None else found.decode()


def is_queued(store: SessionStore) -> bool:
    """Whether a worker would get the session now."""
    while (entry := store.client.rpop(store.names.run)) is not None:
        number = int(entry.decode().split('"')[1])  # type: ignore[union-attr]
        if store.claim(S, number, "looks", "worker") is not None:
            store.complete(S, "looks", Outcome.RELEASED)
            return True
    return False


# -- pause and resume -----------------------------------------------------------------------------


def test_a_paused_session_is_taken_by_nobody_and_goes_on_where_it_was(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1", "2")
    assert operator.pause(S) == "paused"
    assert not is_queued(store)
    assert operator.resume(S) == "ready"
    assert ids_of(claim(store)) == ["1", "2"]


def test_a_paused_session_accepts_messages_within_its_bounds(
    store: SessionStore, operator: Steering
) -> None:
    operator.pause(S)
    answers = push(store, *"123456")
    assert [answer.status for answer in answers] == ["accepted"] * 6
    assert answers[-1].dropped == ("1",)
    assert not is_queued(store)
    operator.resume(S)
    assert ids_of(claim(store)) == ["2", "3", "4"]


def test_pausing_and_resuming_twice_changes_nothing(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    operator.pause(S)
    since = field(store, "paused")
    assert operator.pause(S) == "paused"
    assert field(store, "paused") == since
    assert operator.resume(S) == "ready"
    assert operator.resume(S) is None
    assert store.client.llen(store.names.run) == 2  # the entry of before it was paused is not true


def test_a_session_without_work_stays_paused_for_more_than_a_day(
    store: SessionStore, operator: Steering
) -> None:
    # Given one that nobody has heard of, and one that is idle
    push(store, "1", session="idle")
    worked = store.claim("idle", 1, "t", "worker")
    assert worked is not None
    store.commit("idle", "t", ["1"])
    store.complete("idle", "t", Outcome.ENDED)
    for session in (S, "idle"):
        # If it is paused
        assert operator.pause(session) == "paused"
        # I expect that it is not forgotten
        assert store.client.ttl(store.names.session(session)[0]) == -1
        # And then that it is, a day after somebody has resumed it
        assert operator.resume(session) == "idle"
        assert 0 < store.client.pttl(store.names.session(session)[0]) <= DAY


def test_a_worker_keeps_what_it_has_and_the_session_is_paused_then(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    claim(store)
    push(store, "2")
    assert operator.pause(S) == "leased"
    assert store.begin(S, "t", 1, 1)
    assert store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "paused"
    assert not is_queued(store)
    operator.resume(S)
    assert ids_of(claim(store)) == ["2"]


def test_resumed_before_its_worker_is_done_it_was_never_paused(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1", "2")
    claim(store)
    operator.pause(S)
    assert operator.resume(S) == "leased"
    store.commit(S, "t", ["1"])
    assert complete(store, Outcome.ENDED) == "ready"


def test_a_retry_that_is_on_its_way_keeps_its_time_through_a_pause(
    store: SessionStore, operator: Steering
) -> None:
    # Given a session that was paused while its task decided to be tried again in a minute
    push(store, "1")
    claim(store)
    operator.pause(S)
    assert push(store, "1", token="t", delay=60)[0].status == "retried"
    assert complete(store, Outcome.ENDED) == "paused"
    # If it is resumed at once
    assert operator.resume(S) == "sleeping"
    # I expect it to sleep for as long as it would have
    wake_at = store.progress(S).wake_at_ms
    assert wake_at is not None
    assert 50_000 < wake_at - redis_ms(store) <= 60_000


@pytest.mark.parametrize(("slept", "state"), [(60.0, "sleeping"), (0.0, "ready")])
def test_a_sleeper_sleeps_on_when_it_is_resumed_unless_its_time_has_come(
    store: SessionStore, operator: Steering, slept: float, state: str
) -> None:
    push(store, "1")
    claim(store)
    store.postpone(S, "t", slept, in_doubt=False)
    complete(store, Outcome.ENDED)
    assert operator.pause(S) == "paused"
    assert store.rescue(0, 0).due == ()
    assert operator.resume(S) == state


def test_an_open_question_stays_open_through_a_pause(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    until = redis_ms(store) + LANDING
    operator.pause(S)
    assert store.wait(S, "t", 1, 1, until)
    assert store.progress(S).state == "paused"
    assert operator.resume(S) == "sleeping"
    assert (store.progress(S).wake_at_ms or 0) >= until


def test_a_worker_that_is_killed_leaves_a_paused_session_paused(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    operator.pause(S)
    let_the_lease_run_out(store)
    assert store.complete(S, "", Outcome.LAPSED).state == "paused"
    assert not is_queued(store)
    operator.resume(S)
    again = claim(store, "later")
    assert again.attempts == 1
    assert again.doubt is not None, "the call of the worker that was killed may have landed"


def test_a_message_sent_for_later_is_not_due_because_of_a_pause(
    store: SessionStore, operator: Steering
) -> None:
    operator.pause(S)
    push(store, "1", delay=60)
    assert operator.resume(S) == "sleeping"


def test_a_dead_letter_that_is_retried_waits_with_its_paused_session(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    operator.drop(S)
    operator.pause(S)
    letters = DeadLetters(store)
    (retried,) = letters.retry(letters.newest(session=S))
    assert retried.answer == "front"
    assert not is_queued(store)
    assert operator.resume(S) == "ready"


def test_a_pause_outlives_redis(own_server: tuple[Server, SessionStore]) -> None:
    server, store = own_server
    store.note_server()
    push(store, "1")
    Steering(store).pause(S)
    server.restart()
    store.note_server()
    push(store, "2")
    assert store.progress(S).state == "paused"
    assert not is_queued(store)
    assert Steering(store).resume(S) == "ready"
    # What was accepted before is asked about; what was lost with a second is what always is.
    assert claim(store).doubt is not None


@pytest.fixture
def own_server(server_type: type[Server], prefix: str) -> Iterator[tuple[Server, SessionStore]]:
    """A server that a test may hurt."""
    with server_type() as server, server.client() as client:
        yield server, SessionStore(client, Names(prefix), OPTIONS)


# -- paused, and held at a gate -------------------------------------------------------------------


class Called:
    """A gate, and workers that ask it for a call for one session each."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.gate = Gate(store, Policy(failures=1), "default:ws")

    def ask(self, session: str) -> Go | Hold | None:
        push(self.store, f"{session} 1", session=session)
        entry: Any = self.store.client.rpop(self.store.names.run)
        claimed = self.store.claim(session, int(entry.split(b'"')[1]), session, "worker")
        assert claimed is not None
        return self.gate.admit(session, session, (1, 1), f"call of {session}", 1)

    def open(self) -> None:
        go = self.ask("first")
        assert isinstance(go, Go)
        self.gate.report(go, Ended.FAILED, 0.1)

    def let_the_probe_be_due(self) -> None:
        self.store.client.hset(self.store.names.gate(self.gate.name)[0], "probe_at", 1)


def test_a_session_that_is_paused_while_held_does_not_keep_others_from_probing(
    store: SessionStore, operator: Steering
) -> None:
    # Given an open breaker, and two sessions that are held
    called = Called(store)
    called.open()
    for session in (S, "other"):
        assert isinstance(called.ask(session), Hold)
    # If the oldest is paused, which changes nothing as long as it is held
    assert operator.pause(S) == "held"
    # I expect it to leave the queue at its turn, and the next to be the probe at once
    called.let_the_probe_be_due()
    called.gate.release()
    assert store.progress(S).state == "paused"
    assert called.gate.release() is State.PROBING
    assert store.progress("other").state == "ready"
    # And a resumed one to be queued, to ask the gate again
    assert operator.resume(S) == "ready"


def test_a_session_that_is_dropped_while_held_goes_idle_at_its_turn(
    store: SessionStore, operator: Steering
) -> None:
    called = Called(store)
    called.open()
    assert isinstance(called.ask(S), Hold)
    assert operator.drop(S).ids == (f"{S} 1",)
    assert store.progress(S).state == "held"
    called.let_the_probe_be_due()
    called.gate.release()
    assert store.progress(S).state == "idle"
    assert called.gate.release() is State.OPEN
    assert called.gate.status().permits == 0


# -- drop -----------------------------------------------------------------------------------------


def test_what_is_dropped_is_kept_as_dead_letters_until_somebody_decides(
    store: SessionStore, operator: Steering
) -> None:
    push(store, *"12345")
    dropped = operator.drop(S, "by hand:\nsee ticket 7")
    assert dropped.ids == tuple("12345")
    assert store.progress(S).state == "idle"
    assert not is_queued(store)
    letters = list(DeadLetters(store).newest(session=S))
    assert {letter.reason for letter in letters} == {"dropped"}
    assert {letter.detail for letter in letters} == {"by hand: see ticket 7"}
    assert [one.answer for one in DeadLetters(store).retry(letters)] == ["front"] * 5
    assert store.counters()["backlog"] == 2
    assert ids_of(claim(store)) == ["1", "2", "3"]


def test_what_a_worker_has_is_left_to_it(store: SessionStore, operator: Steering) -> None:
    push(store, "1", "2")
    claim(store)
    push(store, "3", "4")
    dropped = operator.drop(S)
    assert (dropped.ids, dropped.inflight) == (("3", "4"), 2)
    assert store.commit(S, "t", ["1", "2"])
    assert complete(store, Outcome.ENDED) == "idle"


def test_a_message_dropped_with_a_call_in_doubt_is_asked_about_if_it_is_retried(
    store: SessionStore, operator: Steering
) -> None:
    # Given a session that sleeps, and whose call may have landed or not
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    store.postpone(S, "t", 30, note="timeout")
    complete(store, Outcome.ENDED)
    # If all it has is dropped, and the letter retried
    assert operator.drop(S).ids == ("1",)
    letters = DeadLetters(store)
    (letter,) = letters.newest(session=S)
    assert "timeout" in letter.trace
    (retried,) = letters.retry([letter])
    # I expect it at its place, and in doubt until that call cannot land
    assert retried.answer == "front"
    assert 0 < retried.wait <= OPTIONS.landing
    doubt = claim(store, "later").doubt
    assert doubt is not None
    assert doubt.until > redis_ms(store)


def test_a_paused_session_that_is_dropped_stays_paused(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1")
    operator.pause(S)
    operator.drop(S)
    push(store, "2")
    assert not is_queued(store)
    operator.resume(S)
    assert ids_of(claim(store)) == ["2"]


def test_dropping_nothing_does_nothing(store: SessionStore, operator: Steering) -> None:
    assert operator.drop(S).ids == ()
    assert not store.client.exists(store.names.session(S)[0])


# -- wake -----------------------------------------------------------------------------------------


def test_a_retry_that_is_woken_goes_now(store: SessionStore, operator: Steering) -> None:
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    store.postpone(S, "t", 600, in_doubt=False)
    complete(store, Outcome.ENDED)
    assert operator.wake(S) == Woken("ready", None, "")
    assert ids_of(claim(store)) == ["1"]


def test_an_open_question_is_not_asked_sooner(store: SessionStore, operator: Steering) -> None:
    push(store, "1")
    claim(store)
    store.begin(S, "t", 1, 1)
    store.postpone(S, "t", 600)
    complete(store, Outcome.ENDED)
    woken = operator.wake(S)
    assert (woken.state, woken.why) == ("sleeping", "doubt")
    # As soon as no call can land any more, not after the ten minutes.
    assert woken.wakes_in == pytest.approx(OPTIONS.landing, abs=5)
    let_the_wait_end(store)
    assert claim(store).doubt is not None


def test_what_redis_has_forgotten_is_an_open_question_as_well(
    store: SessionStore, operator: Steering
) -> None:
    store.note_server()
    push(store, "1")
    claim(store)
    store.postpone(S, "t", 600, in_doubt=False)
    complete(store, Outcome.ENDED)
    another_redis_process_answers(store)
    assert operator.wake(S).why == "doubt"


def test_a_message_sent_for_later_is_not_woken(store: SessionStore, operator: Steering) -> None:
    push(store, "1", delay=60)
    woken = operator.wake(S)
    assert (woken.state, woken.why) == ("sleeping", "delayed")
    assert woken.wakes_in == pytest.approx(60, abs=5)


def test_only_a_sleeper_is_woken(store: SessionStore, operator: Steering) -> None:
    assert operator.wake(S) == Woken("idle", None, "")
    push(store, "1")
    assert operator.wake(S) == Woken("ready", None, "")
    assert store.client.llen(store.names.run) == 1
    operator.pause(S)
    assert operator.wake(S) == Woken("paused", None, "")


# -- wait -----------------------------------------------------------------------------------------


def test_who_waits_returns_as_soon_as_all_is_settled(
    store: SessionStore, operator: Steering
) -> None:
    push(store, "1", "2")
    claim(store)

    def work() -> None:
        wait_until(lambda: field(store, "watched") == "2", 5.0, "somebody to wait")
        push(store, "3")  # is not waited for
        store.commit(S, "t", ["1", "2"])

    worker = threading.Thread(target=work)
    worker.start()
    begun = time.monotonic()
    waited = operator.wait(S, 30)
    worker.join()
    assert waited.settled
    assert waited.target == 2
    assert time.monotonic() - begun < 10


def test_who_has_waited_in_vain_is_told_what_for(store: SessionStore, operator: Steering) -> None:
    push(store, "1", "2")
    operator.pause(S)
    waited = operator.wait(S, 0.05)
    assert not waited.settled
    error = still_syncing(in_redis(waited.progress, waited.target), 0.05)
    assert isinstance(error, StillSyncing)
    assert "2 turns wait" in str(error)
    assert "somebody has paused the session" in str(error)


def test_nothing_is_waited_for_where_nothing_is(operator: Steering) -> None:
    assert operator.wait("nobody", 0).settled
