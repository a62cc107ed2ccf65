"""The product's own task against the Honcho stand-in: every message stored once and in order."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from celery import Celery

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.tasks import sync_turn
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from hermes_tasks.transport import SessionStore
from hermes_tasks.turns import Turn
from tests.conftest import StartWorker
from tests.integration.order.load import check_quiet, store_of

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True),
]

SESSIONS = 15
TURNS = 8
LEASE = 2.0


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


class Conversations:
    """Turns of two messages in sessions of their own, and what Honcho has of them."""

    def __init__(self, app: Celery, store: SessionStore, honcho: HonchoServer) -> None:
        self.app = app
        self.store = store
        self.honcho = honcho
        self.workspace = f"w{uuid.uuid4().hex[:6]}"
        self.sessions = [f"s{index}" for index in range(SESSIONS)]

    def publish(self) -> None:
        for number in range(TURNS):
            for session in self.sessions:
                turn = Turn.create(
                    self.workspace,
                    session,
                    [
                        {"peer": "igor", "content": f"{number} asked"},
                        {"peer": "hermes", "content": f"{number} answered"},
                    ],
                    turn_id=f"{session}:{number}",
                )
                self.app.tasks[sync_turn.name].apply_async((turn.to_json(),))

    def stored(self) -> dict[str, list[str]]:
        """Contents by session, in the order in which Honcho stored them."""
        found: dict[str, list[str]] = {session: [] for session in self.sessions}
        for entry in self.honcho.log(workspace=self.workspace):
            found[entry["session"]].append(entry["content"])
        return found

    def wait_for_share(self, share: float) -> None:
        wanted = share * SESSIONS * TURNS * 2
        wait_until(
            lambda: sum(map(len, self.stored().values())) >= wanted, 30.0, f"{share:.0%} stored"
        )

    def check(self) -> None:
        keys = [f"default:{self.workspace}:{session}" for session in self.sessions]
        wait_until(
            lambda: all(self.store.progress(key).state == "idle" for key in keys),
            60.0,
            "all turns to be settled",
            interval=0.1,
        )
        whole = [text for n in range(TURNS) for text in (f"{n} asked", f"{n} answered")]
        assert {s: log for s, log in self.stored().items() if log != whole} == {}
        assert self.store.dead_letters() == []
        check_quiet(self.store)


@pytest.fixture
def conversations(settings: Settings, honcho: HonchoServer) -> Iterator[Conversations]:
    with make_app(settings, set_as_current=False) as app, store_of(app) as store:
        yield Conversations(app, store, honcho)


@pytest.fixture
def workers(worker: StartWorker, honcho: HonchoServer) -> list[WorkerProcess]:
    """Two workers as an operator starts them, but for a short lease and small batches."""
    env = {
        "HONCHO_URL": honcho.url,
        "HERMES_TASKS_LEASE_SECONDS": str(LEASE),
        "HERMES_TASKS_BATCH_TURNS": "3",
        # Failures at random may come in a row before many calls are open: the breaker then opens.
        "HERMES_TASKS_BREAKER_PROBE_SECONDS": "0.5",
    }
    started = [
        worker("-c", "4", "-l", "INFO", "--without-mingle", env=env, wait=False) for _ in range(2)
    ]
    for process in started:
        process.wait_ready()
    return started


@pytest.mark.honcho
def test_a_worker_killed_while_honcho_fails_at_random(
    conversations: Conversations, workers: list[WorkerProcess], honcho: HonchoServer
) -> None:
    honcho.control(failure_rate=0.1, seed=7, latency=0.02)
    conversations.publish()
    conversations.wait_for_share(0.2)
    workers[0].kill()
    conversations.check()


def test_the_broker_killed_while_turns_are_written(
    conversations: Conversations,
    workers: list[WorkerProcess],
    honcho: HonchoServer,
    server: Server,
) -> None:
    honcho.control(latency=0.02)
    conversations.publish()
    conversations.wait_for_share(0.2)
    server.restart()
    conversations.check()


def test_a_worker_shut_down_while_turns_are_written(
    conversations: Conversations, workers: list[WorkerProcess], honcho: HonchoServer
) -> None:
    honcho.control(latency={"median": 0.05, "sigma": 0.7})
    conversations.publish()
    conversations.wait_for_share(0.2)
    # On a busy machine a process of Celery's pool may wait 30 s for its last answer to be read
    # (billiard's _ensure_messages_consumed), and the worker with it.
    assert workers[0].stop(timeout=60.0) == 0
    conversations.check()
