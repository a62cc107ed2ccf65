"""Order whatever becomes of a task: it fails, waits, expires, is revoked or terminated."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from tests.integration.order.fleet import Fleet
from tests.integration.order.load import Load


def reasons(store: SessionStore, load: Load) -> dict[str, str]:
    """The dead letters of a load: reason by task id."""
    return {d["id"]: d["reason"] for d in store.dead_letters() if d["session"] in load.sessions}


def told(fleet: Fleet, id: str) -> list[list[str]]:
    """The traces in the logs of a turn that was given up, each by its lines."""
    found = re.findall(
        rf"ERROR/\w+\] Message {re.escape(id)} of session \S+ is a dead letter\n((?:  .*\n)*)",
        fleet.log(),
    )
    return [[line.strip() for line in trace.splitlines()] for trace in found]


def test_a_turn_that_always_fails_is_given_up_after_five_attempts_and_takes_no_other_with_it(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load(sessions=6, turns=8)
    poisoned = {(session, index) for index, session in enumerate(turns.sessions)}
    for number in range(turns.turns):
        for session in turns.sessions:
            turns.send(session, number, poison=(session, number) in poisoned)
    turns.check(missing=poisoned)
    assert reasons(store, turns) == {turns.id(*turn): "attempts" for turn in poisoned}
    first = turns.sessions[0]  # its poisoned turn was a head from the beginning
    assert turns.journal.noted(f"poisoned:{first}") == 5
    wait_until(lambda: told(fleet, turns.id(first, 0)), 5.0, "somebody to say so")
    (said,) = told(fleet, turns.id(first, 0))
    assert [line.split(" ", 1)[1] for line in said] == [
        f"poisoned for the {number}. time" for number in range(1, 6)
    ]
    log = fleet.log()
    cause = log.index(": poisoned for the 1. time\n\nThe above exception was the direct cause")
    assert ": poisoned for the 5. time" in log[cause:]


@pytest.mark.parametrize("task", ["order.write", "order.note"])
def test_revoked_turns_are_not_run_and_the_rest_keeps_its_order(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore, app: Celery, task: str
) -> None:
    """Those revoked are heads and followers to be: first, in the middle, in a row, last."""
    turns = load(sessions=6, turns=8)
    revoked = {
        (session, number)
        for index, session in enumerate(turns.sessions)
        for number in ({1}, {3}, {1, 2}, {7}, {2, 3, 4}, set())[index]
    }
    gate = turns.sessions[0]
    for session in turns.sessions:
        turns.send(session, 0, gate=gate)
    turns.journal.wait_for_arrivals(gate, 6)
    for number in range(1, turns.turns):
        for session in turns.sessions:
            turns.send(session, number, task)
    answers = app.control.revoke([turns.id(*turn) for turn in revoked], reply=True, limit=2)
    assert len(answers) == 2
    turns.journal.open(gate)
    turns.check(missing=revoked)
    kept = revoked if task == "order.write" else set()  # else settled by its acknowledgement
    assert reasons(store, turns) == {turns.id(*turn): "revoked" for turn in kept}


def test_a_terminated_turn_is_given_up_and_the_rest_keeps_its_order(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore, app: Celery
) -> None:
    turns = load(sessions=2, turns=6)
    gate = turns.sessions[0]
    turns.publish(gate=gate)
    turns.journal.wait_for_arrivals(gate, 2)
    ended = turns.sessions[1]
    app.control.revoke(turns.id(ended, 0), terminate=True, signal="SIGKILL")
    wait_until(lambda: reasons(store, turns), 10.0, "the terminated turn to be given up")
    turns.journal.open(gate)
    turns.check(missing=[(ended, 0)])
    assert reasons(store, turns) == {turns.id(ended, 0): "revoked"}


@pytest.mark.parametrize("task", ["order.write", "order.note"])
def test_an_eta_holds_its_session_and_no_other(
    fleet: Fleet, load: Callable[..., Load], app: Celery, task: str
) -> None:
    turns = load(sessions=3, turns=4)
    held, by_time, free = turns.sessions
    due = time.monotonic() + 1.0
    at = datetime.now(UTC) + timedelta(seconds=1.0)
    for number in range(turns.turns):
        turns.send(held, number, task, options={"countdown": 1.0} if number == 1 else None)
        turns.send(by_time, number, task, options={"eta": at} if number == 1 else None)
        turns.send(free, number, task)
    wait_until(lambda: turns.journal.written([free]) == 4, 5.0, "the free session")
    wait_until(lambda: turns.journal.written([held, by_time]) == 2, 5.0, "what is before the ETA")
    assert time.monotonic() < due
    turns.wait_until_done()
    assert time.monotonic() >= due - 0.05
    turns.check()


@pytest.mark.parametrize("task", ["order.write", "order.note"])
def test_an_expired_turn_is_given_up_and_the_rest_keeps_its_order(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore, task: str
) -> None:
    turns = load(sessions=2, turns=6)
    late, early = turns.sessions
    for number in range(turns.turns):
        # Behind an ETA of half a second, one has long expired and the other has not.
        delay = {"countdown": 0.5} if number == 1 else {}
        turns.send(late, number, task, options=delay | ({"expires": 0.1} if number == 3 else {}))
        turns.send(early, number, task, options=delay | ({"expires": 60} if number == 3 else {}))
    turns.check(missing=[(late, 3)])
    kept = [turns.id(late, 3)] if task == "order.write" else []  # as above
    assert reasons(store, turns) == dict.fromkeys(kept, "expired")


def test_a_retry_keeps_its_place(fleet: Fleet, load: Callable[..., Load]) -> None:
    turns = load(sessions=8, turns=6)
    for number in range(turns.turns):
        for session in turns.sessions:
            turns.send(session, number, "order.note", retry=0.3 if number == 2 else 0.0)
    turns.check()
    assert all(turns.journal.noted(f"first:{session}") == 1 for session in turns.sessions)


def test_a_postponed_turn_keeps_its_place_and_nobody_hears_of_it(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load(sessions=8, turns=6)
    before = store.counters().get("postponed", 0)
    turns.publish(fail=0.6)
    turns.check()
    assert store.counters()["postponed"] > before
    loud = re.findall(r"(?:WARNING|ERROR|CRITICAL)/.*", fleet.log())
    assert not [line for line in loud if any(session in line for session in turns.sessions)]
