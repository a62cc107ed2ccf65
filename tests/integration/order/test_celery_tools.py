"""What operators and other code see of ordered tasks: events, results, ``inspect``, queues."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from tests.integration.order.fleet import SLOTS, Fleet, node_name
from tests.integration.order.load import Load

MARKER = "the-words-nobody-may-see"


@contextmanager
def captured_events(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """Collects task events while the block runs, from workers that were told to send them."""
    events: list[dict[str, Any]] = []
    stopped = threading.Event()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})

        def receive() -> None:
            consumer = receiver.itercapture(limit=None, timeout=0.2, wakeup=False)
            while not stopped.is_set():
                try:
                    next(consumer)
                except (TimeoutError, StopIteration):
                    consumer = receiver.itercapture(limit=None, timeout=0.2, wakeup=False)

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            with app.events.default_dispatcher() as dispatcher:

                def received() -> bool:
                    dispatcher.send("probe")
                    return any(event["type"] == "probe" for event in list(events))

                wait_until(received, 5.0, "the receiver to be there", interval=0.05)
            app.control.enable_events(reply=True, limit=2)
            yield events
        finally:
            app.control.disable_events(reply=True, limit=2)
            stopped.set()
            thread.join()


def test_every_turn_of_a_batch_has_its_events(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    turns = load(sessions=10, turns=8)
    gate = turns.sessions[0]
    with captured_events(app) as events:
        turns.publish(gate=gate, text=MARKER)
        turns.journal.open(gate)
        turns.check()

        def counted() -> dict[str, Counter[str]]:
            found: dict[str, Counter[str]] = {
                turns.id(session, number): Counter()
                for session in turns.sessions
                for number in range(turns.turns)
            }
            for event in list(events):
                if event.get("uuid") in found:
                    found[event["uuid"]][event["type"]] += 1
            return found

        wait_until(
            lambda: all(count["task-succeeded"] for count in counted().values()),
            5.0,
            "every turn to be reported as succeeded",
        )
    once = {"task-received": 1, "task-started": 1, "task-succeeded": 1}
    assert counted() == {id: Counter(once) for id in counted()}
    assert MARKER not in json.dumps(events, default=str)


def test_a_retry_shows_no_more_of_its_arguments_than_the_first_attempt(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    turns = load(sessions=4, turns=2)
    with captured_events(app) as events:
        turns.publish("order.note", retry=0.05, text=MARKER)
        turns.check()
        wait_until(
            lambda: (
                [event["type"] for event in list(events)].count("task-received") == 2 * turns.size
            ),
            5.0,
            "both attempts of each turn to be reported",
        )
    assert MARKER not in json.dumps(events, default=str)


def test_every_turn_of_a_batch_has_a_result_where_results_are_kept(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    turns = load(sessions=2, turns=8)
    gate = turns.sessions[0]
    for number in range(turns.turns):
        for session in turns.sessions:
            options = {"ignore_result": False}
            turns.send(session, number, gate=gate, poison=number == 5, options=options)
    turns.journal.wait_for_arrivals(gate, 2)
    turns.journal.open(gate)
    turns.check(missing=[(session, 5) for session in turns.sessions])
    for session in turns.sessions:
        states = {}
        for number in range(turns.turns):
            result = AsyncResult(turns.id(session, number), app=app)
            wait_until(result.ready, 5.0, f"the result of turn {number}")
            states[number] = result.state
        assert states == {n: "FAILURE" if n == 5 else "SUCCESS" for n in range(turns.turns)}


def test_inspect_and_control_answer_while_all_slots_work(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    turns = load(sessions=20, turns=3)
    gate = turns.sessions[0]
    turns.publish(gate=gate, text=MARKER)
    turns.journal.wait_for_arrivals(gate, 2 * SLOTS)
    names = {node_name(worker) for worker in fleet.members}
    inspect = app.control.inspect(timeout=5.0, limit=2)

    assert inspect.ping() == {name: {"ok": "pong"} for name in names}
    active = inspect.active()
    assert {name: len(tasks) for name, tasks in active.items()} == dict.fromkeys(names, SLOTS)
    assert {task["id"] for tasks in active.values() for task in tasks} <= {
        turns.id(session, 0) for session in turns.sessions
    }
    reserved = inspect.reserved()
    assert reserved.keys() == names
    stats = inspect.stats()
    assert {s["broker"]["transport"] for s in stats.values()} == {"redis"}
    shown = json.dumps([active, reserved, stats, inspect.query_task(turns.id(gate, 0))])
    assert MARKER not in shown
    assert {len(tasks) for tasks in active.values()} == {SLOTS}
    printed = fleet.celery("inspect", "ping", "--json", "-t", "5", "-d", sorted(names)[0])
    assert json.loads(printed.splitlines()[-1]) == {sorted(names)[0]: {"ok": "pong"}}

    turns.journal.open(gate)
    turns.check()


def test_a_pool_that_grows_under_load_takes_one_session_more_a_slot(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    guest = fleet.start()
    destination = [node_name(guest)]
    turns = load(sessions=6 * SLOTS, turns=3)
    hold = turns.sessions[0]
    turns.publish(hold=hold)
    turns.journal.wait_for_arrivals(hold, 3 * SLOTS)
    assert len(turns.leased_by(guest)) == SLOTS

    app.control.pool_grow(2, destination=destination, reply=True, limit=1)
    turns.journal.wait_for_arrivals(hold, 3 * SLOTS + 2)
    assert len(turns.leased_by(guest)) == SLOTS + 2
    # Celery refuses this while all processes are busy; the sessions must not notice either way.
    app.control.pool_shrink(2, destination=destination, reply=True, limit=1)
    turns.journal.open(hold)
    turns.check()


def test_the_number_of_known_queues_does_not_grow_with_sessions(
    fleet: Fleet, load: Callable[..., Load], app: Celery, store: SessionStore
) -> None:
    turns = load(sessions=50, turns=2)
    turns.publish(fail=0.5)
    turns.check()
    assert len(app.amqp.queues) == 2
    main = app.control.broadcast("known_queues", reply=True, timeout=5.0, limit=2)
    assert [len(names) for answer in main for names in answer.values()] == [2, 2]
    key = f"queues:{turns.sessions[0]}"
    for _ in range(4 * SLOTS):
        app.tasks["order.known_queues"].apply_async((key,))

    def asked() -> dict[Any, Any]:
        found: dict[Any, Any] = turns.journal.client.hgetall(key)
        return found if len(found) >= SLOTS else {}

    children = wait_until(asked, 10.0, "answers of several pool processes")
    assert set(children.values()) == {"2"}


def test_plain_tasks_on_ordinary_queues_run_beside_ordered_ones(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    ordered, plain = load(), load(sessions=1, turns=200)
    ordered.publish(work=0.005)
    for number in range(plain.turns):
        app.tasks["order.plain"].apply_async((plain.sessions[0], number))
    app.tasks["order.plain"].apply_async((plain.sessions[0], -1), countdown=0.3)
    ordered.check()
    wait_until(
        lambda: plain.journal.written(plain.sessions) == plain.turns + 1, 20.0, "the plain tasks"
    )
    log = plain.journal.log(plain.sessions[0])
    assert sorted(log) == list(range(-1, plain.turns))
