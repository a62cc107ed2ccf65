"""What our workers add to Celery's.

A check of their settings, silence about conversations, and help for sessions held at the gate.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery import Celery, bootsteps
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from redis.exceptions import RedisError

from hermes_tasks.errors import ConfigurationError, HermesTasksError
from hermes_tasks.gate import Policy, release_all
from hermes_tasks.ops.history import record_history
from hermes_tasks.ops.index import Index
from hermes_tasks.ops.reports import report_worker
from hermes_tasks.sealing import keyring_of
from hermes_tasks.transport import run_queue
from hermes_tasks.transport.celery_state import is_stopping
from hermes_tasks.transport.channel import SessionChannel
from hermes_tasks.transport.keeper import Keeper

logger = get_logger(__name__)

EXIT_USAGE = 2
WITHHELD = "<withheld>"
#: Seconds between two reports of a worker.
REPORT_SECONDS = 1.0


def install(app: Celery) -> None:
    """Add our steps to the workers of an app."""
    app.steps["worker"].add(CheckSettings)
    app.steps["consumer"].add(ReleaseHeld)
    app.steps["consumer"].add(ReportToOperators)
    # It says a line for every call at INFO, the level most workers run at.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # It says every task with its arguments at DEBUG.
    logging.getLogger("celery.pool").setLevel(logging.INFO)


def complain(error: HermesTasksError) -> int:
    """One line on standard error; returns the exit status."""
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE


def writes_turns(app: Celery) -> bool:
    """Whether the worker of this process consumes turns, and not only other queues of the app."""
    return run_queue(app.settings.prefix).name in app.amqp.queues.consume_from


class CheckSettings(bootsteps.Step):
    """A worker that cannot write says so when it starts, not at its first turn."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        app = parent.app
        if not writes_turns(app):
            return
        try:
            app.settings.require_honcho_url()
            keyring_of(app.settings)
            # Says what to install if it cannot, and what it has to cut, once for all processes.
            from hermes_tasks.honcho.watchdogs import Watchdogs

            Watchdogs.from_settings(app.settings)
        except ConfigurationError as error:
            raise SystemExit(complain(error)) from None


class ReleaseHeld(bootsteps.StartStopStep):
    """Moves sessions on that are held at a gate when nothing but time lets them go.

    Every worker looks, on the thread that renews its leases, so that one of them is enough.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        app, channel = parent.app, parent.task_consumer.channel
        if not writes_turns(app) or not isinstance(channel, SessionChannel):
            return
        policy = Policy.from_settings(app.settings)
        keeper = channel.keeper
        keeper.every_tick("release held sessions", partial(release_all, keeper.store, policy))


class ReportToOperators(bootsteps.StartStopStep):
    """Says whether this worker takes turns, and records how the deployment is.

    All on the thread that renews leases, which goes on when the consumer stands still.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    chores = ("report to operators", "record the history", "list the sessions that lag")
    keeper: Keeper | None = None

    def start(self, parent: Any) -> None:
        app, channel = parent.app, parent.task_consumer.channel
        if not writes_turns(app) or not isinstance(channel, SessionChannel):
            return
        self.keeper = keeper = channel.keeper
        store, policy = keeper.store, Policy.from_settings(app.settings)

        def report() -> None:
            report_worker(store, parent.hostname, channel.is_consuming)

        keeper.every_tick(self.chores[0], Every(REPORT_SECONDS, report))
        index = Index(store, policy)

        def record() -> None:
            if record_history(store, policy):
                index.look()

        keeper.every_tick(self.chores[1], Every(REPORT_SECONDS, record))
        keeper.every_tick(self.chores[2], index.tick)

    def shutdown(self, parent: Any) -> None:
        if self.keeper is None:
            return
        for chore in self.chores:
            self.keeper.no_longer(chore)
        with suppress(RedisError):  # it is forgotten by itself
            report_worker(self.keeper.store, parent.hostname, None)


class Every:
    """A chore that is done at most once in so many seconds."""

    def __init__(self, seconds: float, chore: Callable[[], object]) -> None:
        self._seconds, self._chore, self._done_at = seconds, chore, -seconds

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._done_at >= self._seconds:
            self._done_at = now
            self._chore()


class Consumer(CeleryConsumer):
    """Celery's consumer, without message bodies in its log, and with a quick warm shutdown."""

    def on_close(self) -> None:
        """Celery now forgets what no pool process has accepted.

        A process that just got such a task runs it all the same, and then waits half a minute for
        somebody to read its answer. When we shut down warm, that is to be us.
        """
        if is_stopping():
            # Of a pool of processes: its jobs. Other pools have none.
            jobs: dict[Any, Any] = getattr(getattr(self.pool, "_pool", None), "_cache", {})
            for job in list(jobs.values()):
                if job._write_to is not None and not job._accepted:
                    job._accepted = True
                    job._worker_pid = job._write_to.pid  # should that die, nobody waits for it
        super().on_close()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        super().on_unknown_message(WITHHELD, _Described(message))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_unknown_task(WITHHELD, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(WITHHELD, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        logger.critical(
            "Cannot decode message %s (%s, %s): %s",
            message.headers.get("id"),
            message.content_type,
            message.content_encoding,
            type(exc).__name__,
        )
        message.ack()


class _Described:
    """A message whose body reads as withheld."""

    body = WITHHELD

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)
