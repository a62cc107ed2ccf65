"""The whole deployment, as pytest-celery sees one: broker, result backend, two workers."""

from __future__ import annotations

from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from hermes_tasks.app import TASK
from hermes_tasks.testing.audit import Audit, audit_session
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.turns import Turn

PATIENCE = 30.0


def send(setup: CeleryTestSetup, session: str, count: int, first: int = 0) -> list[str]:
    """Publish turns as any Celery application would; their ids in order."""
    ids = []
    for number in range(first, first + count):
        turn = Turn.create("w", session, [{"peer": "igor", "content": f"turn {number}"}])
        setup.app.tasks[TASK].apply_async((turn.to_json(),), task_id=turn.turn_id)
        ids.append(turn.turn_id)
    return ids


def stored(honcho: HonchoServer, session: str) -> list[str]:
    return [entry["metadata"]["turn_id"] for entry in honcho.log(session)]


def wait_for(honcho: HonchoServer, session: str, ids: list[str]) -> None:
    wait_until(
        lambda: set(ids) <= set(stored(honcho, session)), PATIENCE, f"{len(ids)} turns of {session}"
    )


def test_every_turn_of_a_batch_ends_as_a_task_of_its_own(
    celery_setup: CeleryTestSetup, honcho: HonchoServer
) -> None:
    ids = send(celery_setup, "s", 20)

    for turn_id in ids:
        result = AsyncResult(turn_id, app=celery_setup.app)
        result.get(timeout=PATIENCE)
        assert result.state == "SUCCESS"
    assert audit_session(ids, stored(honcho, "s")) == Audit(sent=20, written=20)


def test_the_nodes_answer_by_their_names(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(control=True, docker=True)
    names = {name for answer in celery_setup.app.control.ping(timeout=2) for name in answer}
    assert names == {node.hostname() for node in celery_setup.worker_cluster}


def test_a_worker_is_killed_and_comes_back_and_no_turn_is_lost_doubled_or_out_of_order(
    celery_setup: CeleryTestSetup, honcho: HonchoServer
) -> None:
    # Given turns that both workers are writing
    honcho.control(latency=0.1)
    sent = {f"s{number}": send(celery_setup, f"s{number}", 5) for number in range(8)}

    # When one of them is killed, more is said, and it comes back
    celery_setup.worker.kill()
    for session, ids in sent.items():
        ids += send(celery_setup, session, 5, first=5)
    celery_setup.worker.restart()

    # I expect every session whole and in order
    for session, ids in sent.items():
        wait_for(honcho, session, ids)
        assert audit_session(ids, stored(honcho, session)) == Audit(sent=10, written=10)


def test_the_broker_is_killed_and_comes_back_with_every_turn_it_had_accepted(
    celery_setup: CeleryTestSetup, honcho: HonchoServer
) -> None:
    # Given turns that were accepted and cannot be written yet
    honcho.control(fail=503, times=2)
    ids = send(celery_setup, "s", 10)

    # When the broker is killed and started again
    celery_setup.broker.kill()
    celery_setup.broker.restart()

    # I expect them all, in order, and those sent after
    ids += send(celery_setup, "s", 2, first=10)
    wait_for(honcho, "s", ids)
    assert audit_session(ids, stored(honcho, "s")) == Audit(sent=12, written=12)
