"""Turns of many sessions, and what must hold of them in the end."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from hermes_tasks.transport import PushAnswer, SessionStore, push_answers, session_queue
from hermes_tasks.transport.keeper import private_store
from tests.integration.order.journal import Journal

#: Seconds within which any load of these tests is done, whatever happens to it.
DONE_SECONDS = 60.0


@contextmanager
def store_of(app: Celery) -> Iterator[SessionStore]:
    """The state of an application's sessions."""
    with app.connection_for_write() as connection:
        store = private_store(connection)
        try:
            yield store
        finally:
            store.client.close()
            store.client.connection_pool.disconnect()


#: What is remembered of an idle session.
REMEMBERED = {
    b"accepted",
    b"settled",
    b"written",
    b"rewritten",
    b"epoch",
    b"senders",
    b"buried",
    b"given_up",
}


class Load:
    """The turns of one test: sessions of its own, numbered turns in each.

    Args:
        app: the application that publishes.
        store: the state of its sessions.
        sessions: how many.
        turns: how many in each.
    """

    def __init__(
        self, app: Celery, store: SessionStore, sessions: int = 40, turns: int = 8
    ) -> None:
        self.app = app
        self.store = store
        self.journal: Journal = app.journal
        name = uuid.uuid4().hex[:6]
        self.sessions = [f"{name}-{index}" for index in range(sessions)]
        self.turns = turns

    # -- publishing --------------------------------------------------------------------------

    def publish(self, task: str = "order.write", **kwargs: Any) -> None:
        """Publish all turns, the sessions interleaved."""
        with self.app.producer_or_acquire() as producer:
            for number in range(self.turns):
                for session in self.sessions:
                    self.send(session, number, task, producer=producer, **kwargs)

    def send(
        self,
        session: str,
        number: int,
        task: str = "order.write",
        *,
        producer: Any = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> PushAnswer:
        """Publish one turn; ``options`` are ``apply_async``'s, ``kwargs`` the task's."""
        with push_answers() as answers:
            self.app.tasks[task].apply_async(
                (session, number),
                kwargs,
                queue=session_queue(session, self.store.names.prefix),
                task_id=self.id(session, number),
                producer=producer,
                # Monitors show these in place of the arguments.
                argsrepr="(…)",
                kwargsrepr="{…}",
                **(options or {}),
            )
        return answers[-1]

    @staticmethod
    def id(session: str, number: int) -> str:
        """The task id of a turn."""
        return f"{session}:{number}"

    # -- on its way --------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many turns there are."""
        return len(self.sessions) * self.turns

    def wait_for_share(self, share: float) -> None:
        """Wait until that share of the turns is written, with work still going on."""
        wait_until(
            lambda: self.journal.written(self.sessions) >= share * self.size,
            DONE_SECONDS,
            f"{share:.0%} of the turns to be written",
        )

    def leased_by(self, worker: WorkerProcess) -> list[str]:
        """Sessions of this load on which a worker holds the lease."""
        holder = f"{socket.gethostname()}:{worker.pid}".encode()
        client, names = self.store.client, self.store.names
        return [
            session
            for session in self.sessions
            if client.hget(names.session(session)[0], "worker") == holder
        ]

    def wait_until_done(self, timeout: float = DONE_SECONDS) -> None:
        """Wait until every turn of the load is settled."""
        left = set(self.sessions)

        def done() -> bool:
            try:
                for session in list(left):
                    progress = self.store.progress(session)
                    if progress.accepted == 0 or progress.state != "idle":
                        return False
                    left.discard(session)
            except redis.RedisError:  # the test is just restarting it
                return False
            return True

        try:
            wait_until(done, timeout, "all turns to be settled", interval=0.05)
        except TimeoutError as error:
            stuck = {session: self.store.progress(session) for session in left}
            raise TimeoutError(f"{error}, but {stuck}") from None

    # -- in the end --------------------------------------------------------------------------

    def disorder(self, missing: Iterable[tuple[str, int]] = ()) -> dict[str, list[int]]:
        """The log of every session that is not each turn once and in order.

        ``missing``: the turns that are not to be written.
        """
        absent = set(missing)
        return {
            session: log
            for session in self.sessions
            if (log := self.journal.log(session))
            != [n for n in range(self.turns) if (session, n) not in absent]
        }

    def check(self, missing: Iterable[tuple[str, int]] = ()) -> None:
        """Wait for the end, and expect each turn once, in order, and no session stuck."""
        self.wait_until_done()
        disorder = self.disorder(missing)
        assert disorder == {}, f"{len(disorder)} sessions out of order: {disorder}"
        check_quiet(self.store)


def check_quiet(store: SessionStore) -> None:
    """No session is ready, leased, sleeping or held; only hashes are left, which are remembered."""
    client, names = store.client, store.names
    # The entries of sessions that were queued twice are popped by whoever is free.
    wait_until(lambda: client.llen(names.run) == 0, 5.0, "the run queue to be empty")
    assert {
        name: client.zrange(name, 0, -1) for name in (names.ready, names.leases, names.sleeping)
    } == {names.ready: [], names.leases: [], names.sleeping: []}
    base = names.key("session", "")
    for key in client.scan_iter(match=f"{base}*", count=1000):
        assert client.type(key) == b"hash", f"{key!r} is left over"
        # One that is held is in none of the sets above, but in a list of whoever holds it.
        assert client.hget(key, "state") is None, f"{key!r} is stuck"
        assert client.ttl(key) > 0, f"{key!r} stays for ever"
        assert set(client.hkeys(key)) <= REMEMBERED, f"{key!r} keeps what is over"
    holding = client.zrange(names.gates, 1, 1, byscore=True)
    assert holding == [], f"{holding} hold sessions that are done"
    assert list(client.scan_iter(match=f"*{names.queue_prefix}*", count=1000)) == []
    for bindings in client.scan_iter(match="_kombu.binding.*", count=1000):
        assert names.queue_prefix not in str(client.smembers(bindings))
