"""The Celery task: one per turn, thin."""

from __future__ import annotations

import os
import random
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

from hermes_tasks.app import HARD_TIME_LIMIT, TASK
from hermes_tasks.errors import HonchoError, InvalidTurn, LeaseLost, RateLimited
from hermes_tasks.transport import BatchTask, SessionLease
from hermes_tasks.transport.channel import SIZE_HEADER
from hermes_tasks.turns import Turn

logger = get_task_logger(__name__)

#: Waits between attempts while Honcho fails, in seconds: doubling, jittered down to half.
RETRY_FIRST = 1.0
RETRY_LONGEST = 60.0


class TurnTask(BatchTask):
    """Publishes turns: the task id is the turn id, and only numbers stand for its text."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        turn = args[0] if args else (kwargs or {})["turn"]
        described = Turn.from_json(turn)
        options.setdefault("argsrepr", f"({described.describe()})")
        options.setdefault("kwargsrepr", "{}")
        options["headers"] = {**(options.get("headers") or {}), SIZE_HEADER: described.size}
        if not more:
            options.setdefault("task_id", described.turn_id)
        return super().apply_async(args, kwargs, *more, **options)


@shared_task(base=TurnTask, bind=True, name=TASK, max_retries=None, time_limit=HARD_TIME_LIMIT)
def sync_turn(self: Any, turn: dict[str, Any]) -> dict[str, Any]:
    """Write a turn, and those that were batched behind it, to Honcho.

    Returns the session, how many turns were written, and the ids of those given up.
    """
    lease = SessionLease.of(self)
    if lease is None:
        raise InvalidTurn("a turn must come through its session's queue, or order is lost")
    try:
        turns = [Turn.from_json(message.args[0]) for message in lease.messages]
    except InvalidTurn as error:
        # It may be its own fault or that of an older worker: let it try elsewhere, alone.
        logger.error("Turn %s or one behind it cannot be read: %s", self.request.id, error)
        raise
    try:
        report = writer_of(self.app).write(turns, lease, ask=lease.again)
    except LeaseLost as error:
        logger.warning("%s", error)
        raise Ignore from None
    except HonchoError as error:
        raise self.retry(exc=error, countdown=_wait(error, self.request.retries)) from error
    written = report.written + report.found
    return {"session": lease.session, "written": written, "dead": list(report.dead)}


def _wait(error: HonchoError, retries: int) -> float:
    """Seconds until the next attempt."""
    longest = min(RETRY_FIRST * 2.0 ** min(retries, 16), RETRY_LONGEST)
    wait = longest * random.uniform(0.5, 1.0)
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return max(wait, error.retry_after)
    return wait


_writers: dict[int, Any] = {}


def writer_of(app: Any) -> Any:
    """This process's writer, made after any fork: one pooled client per process."""
    writer = _writers.get(os.getpid())
    if writer is None:
        from hermes_tasks.honcho.client import HonchoClient
        from hermes_tasks.honcho.writer import Writer

        writer = _writers[os.getpid()] = Writer(HonchoClient.from_settings(app.settings))
    return writer
