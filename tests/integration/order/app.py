"""A Celery application with ordered tasks, as anyone could write one. It knows nothing of Honcho.

``celery -A tests.integration.order.app worker`` finds ``app`` here, configured by the environment.
"""

from __future__ import annotations

import json
import os
import time
from hashlib import blake2s
from typing import Any, NoReturn

from celery import Celery, shared_task
from celery.exceptions import Ignore
from celery.worker.control import inspect_command
from kombu import Queue

from hermes_tasks.errors import LeaseLost
from hermes_tasks.transport import (
    BatchTask,
    OrderedTask,
    SessionAMQP,
    SessionLease,
    keeper,
    run_queue,
)
from tests.integration.order.journal import Journal

#: Seconds; short, because every test that lets one run out waits for it.
LEASE = 1.5
#: Seconds after which a session that was popped and never claimed is queued again, likewise.
GRACE = 1.0


def make_app(broker: str, journal: str, prefix: str, **conf: Any) -> Celery:
    """The application. ``conf`` are further settings of Celery's."""
    ordered = conf.pop("ordered", True)
    amqp = SessionAMQP if ordered else None
    app = Celery(prefix, broker=broker, set_as_current=False, amqp=amqp)
    app.journal = Journal(journal)
    app.conf.update(
        task_default_queue=f"{prefix}.plain",
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Celery's own would write a message that it cannot read to the log.
        worker_consumer="hermes_tasks.worker:Consumer",
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "session_prefix": prefix,
            "session_lease": LEASE,
            "session_batch_messages": 5,
            "session_message_limit": 1_000_000,
            "session_retry_first": 0.05,
            "session_retry_longest": 0.5,
        },
    )
    if ordered:
        app.conf.task_queues = [Queue(f"{prefix}.plain"), run_queue(prefix)]
    app.conf.update(conf)
    return app


@shared_task(base=BatchTask, bind=True, name="order.write", max_retries=None)
def write(
    self: Any,
    session: str,
    number: int,
    *,
    fail: float = 0.0,
    work: float = 0.0,
    gate: str | None = None,
    hold: str | None = None,
    poison: bool = False,
    text: str = "",
) -> None:
    """Write a turn, and those batched behind it, exactly once.

    Args:
        fail: the share of attempts that fail, half of them after the write. Turns with an even
            number are postponed then, the others published again.
        work: seconds spent before the write and again after it.
        gate: where to wait between ``begin`` and the write, on a first attempt.
        hold: where to wait before ``begin``.
        poison: this turn can never be written, nor anything in one call with it.
        text: what no log may ever show.
    """
    journal: Journal = self.app.journal
    lease = SessionLease.of(self)
    if lease is None:  # an ordinary queue: nothing keeps order
        numbers, again = [number], self.request.retries > 0
        if again:
            numbers = [n for n in numbers if n not in journal.log(session)]
    else:
        numbers, again = [message.args[1] for message in lease.messages], lease.again
    luck = _luck(session, number, self.request.retries + (lease.tries if lease else 0))
    if luck < fail / 2:
        _try_later(self, lease, number, 0.05 + luck)
    if lease is not None:
        if any(message.kwargs.get("poison") for message in lease.messages):
            times = journal.note(f"poisoned:{session}")
            lease.note(f"poisoned for the {times}. time")
            raise ValueError("cannot be written")
        if hold is not None:
            journal.wait_at(hold)
        try:
            lease.begin()
            if again:
                stored = set(journal.log(session))
                lease.commit_found([m.id for m in lease.messages if m.args[1] in stored])
                numbers = [n for n in numbers if n not in stored]
            if gate is not None and not again:
                journal.wait_at(gate)
            time.sleep(work)
            lease.check()
        except LeaseLost:
            journal.note(f"refused:{session}")
            raise Ignore from None
    else:
        time.sleep(work)
    if numbers:
        journal.append(session, numbers)
    time.sleep(work)
    if fail / 2 <= luck < fail:
        _try_later(self, lease, number, luck)
    if lease is not None:
        try:
            lease.commit([message.id for message in lease.messages])
        except LeaseLost:
            journal.note(f"late:{session}")
            raise Ignore from None


def _try_later(task: Any, lease: SessionLease | None, number: int, seconds: float) -> NoReturn:
    """End the attempt, in either way that keeps the turn's place."""
    if lease is None or number % 2:
        raise task.retry(countdown=seconds)
    try:
        lease.postpone(seconds, 2, "out of luck")
    except LeaseLost:
        task.app.journal.note(f"late:{lease.session}")
    raise Ignore


def _luck(*what: object) -> float:
    """A number in [0, 1) that looks random and is the same in every run."""
    digest = blake2s(":".join(map(str, what)).encode(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


@shared_task(base=OrderedTask, bind=True, name="order.note", max_retries=None)
def note(self: Any, session: str, number: int, *, retry: float = 0.0, text: str = "") -> None:
    """Write one turn; the acknowledgement settles it. ``retry``: fail once, come back after it."""
    if retry and self.request.retries == 0:
        self.app.journal.note(f"first:{session}")
        raise self.retry(countdown=retry)
    self.app.journal.append(session, [number])


@shared_task(base=OrderedTask, bind=True, name="order.complain", max_retries=None)
def complain(self: Any, session: str, number: int, *, gate: str, length: int) -> NoReturn:
    """Wait at a gate, and fail with an answer that is so long that it fills every pipe."""
    self.app.journal.wait_at(gate)
    raise ValueError("x" * length)


@shared_task(base=BatchTask, bind=True, name="order.hang", time_limit=1)
def hang(self: Any, session: str, number: int) -> None:
    """Hang on the first attempt, until the hard time limit; write on the next."""
    lease = SessionLease.of(self)
    assert lease is not None
    if self.app.journal.note(f"hung:{session}") == 1:
        time.sleep(60)
    lease.begin()
    self.app.journal.append(session, [message.args[1] for message in lease.messages])
    lease.commit([message.id for message in lease.messages])


@shared_task(name="order.early", bind=True, acks_late=False)
def early(self: Any, session: str, number: int) -> None:
    """A task that no session queue may run: Celery acknowledges it before it begins."""
    self.app.journal.append(session, [number])


@shared_task(name="order.plain", bind=True)
def plain(self: Any, session: str, number: int) -> None:
    """A task for ordinary queues."""
    self.app.journal.append(session, [number])


@inspect_command()
def known_queues(state: Any, **_: Any) -> list[str]:
    """Names in ``app.amqp.queues`` of a worker's main process."""
    return sorted(state.app.amqp.queues)


@shared_task(name="order.known_queues", bind=True)
def child_queues(self: Any, key: str) -> None:
    """Note how many names ``app.amqp.queues`` has in a pool process, and keep it busy meanwhile."""
    time.sleep(0.1)
    self.app.journal.client.hset(key, str(os.getpid()), len(self.app.amqp.queues))


def _app() -> Celery:
    keeper.GRACE = GRACE
    return make_app(**json.loads(os.environ["ORDER_APP"]))


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = _app()
        app.set_current()
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
