"""The Celery task: one per turn or conclusion, thin."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.utils.log import get_task_logger
from redis.exceptions import RedisError

from hermes_tasks import tracing
from hermes_tasks.app import TASK
from hermes_tasks.errors import (
    DeadlineExceeded,
    HonchoError,
    InvalidTurn,
    LeaseLost,
    RateLimited,
    SessionHeld,
    Unauthorised,
)
from hermes_tasks.transport import BatchTask, SessionLease
from hermes_tasks.transport.channel import SIZE_HEADER
from hermes_tasks.turns import Memory, from_json

if TYPE_CHECKING:
    from hermes_tasks.guard import GatedLease

logger = get_task_logger(__name__)

#: Waits between attempts while Honcho fails, in seconds: doubling, jittered down to half.
RETRY_FIRST = 1.0
RETRY_LONGEST = 15.0


class TurnTask(BatchTask):
    """Publishes turns: the task id is the turn id, and only numbers stand for its text."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        turn = args[0] if args else (kwargs or {})["turn"]
        described = from_json(turn)
        options.setdefault("argsrepr", f"({described.describe()})")
        options.setdefault("kwargsrepr", "{}")
        options["headers"] = {**(options.get("headers") or {}), SIZE_HEADER: described.size}
        if not more:
            options.setdefault("task_id", described.turn_id)
        return super().apply_async(args, kwargs, *more, **options)


@shared_task(base=TurnTask, bind=True, name=TASK, max_retries=None)
def sync_turn(self: Any, turn: dict[str, Any]) -> dict[str, Any]:
    """Write a turn, and those that were batched behind it, to Honcho.

    Returns the session, how many turns were written, and the ids of those given up.
    """
    lease = SessionLease.of(self)
    if lease is None:
        raise InvalidTurn("a turn must come through its session's queue, or order is lost")
    try:
        turns = [from_json(message.args[0]) for message in lease.messages]
    except InvalidTurn as error:
        # It may be its own fault or that of an older worker: let it try elsewhere, alone.
        logger.error("Turn %s or one behind it cannot be read: %s", self.request.id, error)
        raise
    guard = guard_of(self, lease, turns)
    try:
        try:
            headers = [message.headers for message in lease.messages]
            with tracing.writing(lease.session, headers, again=lease.again) as traced:
                report = writer_of(self.app).write(turns, guard, ask=lease.again)
                traced.set("hermes_tasks.written", report.written)
                traced.set("hermes_tasks.found", report.found)
                traced.set("hermes_tasks.given_up", len(report.dead))
        except SoftTimeLimitExceeded:
            raise DeadlineExceeded("the task took longer than its time limit") from None
    except (LeaseLost, SessionHeld) as error:
        # The session goes on elsewhere, or when the gate lets it: nothing is wrong with the turn.
        logger.debug("%s", error)
        raise Ignore from None
    except RedisError as error:
        logger.warning("Redis failed while a turn was written: %s", type(error).__name__)
        raise Ignore from None
    except HonchoError as error:
        try:
            dead = try_later(lease, guard, error, self.app.settings.retry_max_age)
        except (LeaseLost, RedisError):
            raise Ignore from None
        if not dead:
            raise Ignore from None
        return {"session": lease.session, "written": 0, "dead": [dead]}
    written = report.written + report.found
    return {"session": lease.session, "written": written, "dead": list(report.dead)}


def try_later(lease: SessionLease, guard: GatedLease, error: HonchoError, max_age: float) -> str:
    """Put the rest of a batch off, or give its oldest turn up; returns the id of that, or ``""``.

    Args:
        lease: the right to write for the session.
        guard: what the failed call went through.
        error: how it failed.
        max_age: seconds after its acceptance that a turn is given up.
    """
    said = f"{type(error).__name__}: {error}"
    head = guard.head
    # A denied call says nothing about its turn, however old that is.
    denied = isinstance(error, Unauthorised)
    if head is not None and not denied and lease.age(head) > max_age:
        guard.give_up(head.id, error)
        return head.id
    if denied or isinstance(error, RateLimited):
        most = guard.turns  # nothing is wrong with the batch
    elif guard.timed_out:
        most = max(1, guard.turns // 2)  # it may be too much for the time that there is
    else:
        most = 1
    seconds = wait(error, lease.tries, guard.calling)
    lease.postpone(seconds, most, said, in_doubt=guard.in_doubt(error))
    return ""


def wait(error: HonchoError, tries: int, calling: bool) -> float:
    """Seconds until the next attempt, jittered; none where the gate knows better when that is."""
    if isinstance(error, RateLimited) or not calling:
        return 0.0
    return min(RETRY_FIRST * 2.0 ** min(tries, 16), RETRY_LONGEST) * random.uniform(0.5, 1.0)


def guard_of(task: Any, lease: SessionLease, turns: Sequence[Memory]) -> GatedLease:
    """A lease behind the gate of the turns' backend. A gateway has not installed what it needs."""
    from hermes_tasks.guard import GatedLease, gate_of

    gate = gate_of(task.app, turns[0].backend, turns[0].workspace)
    resent = [turn.turn_id for turn in turns if turn.ask]
    return GatedLease(lease, gate, str(task.request.hostname or ""), resent)


_writers: dict[int, Any] = {}


def writer_of(app: Any) -> Any:
    """This process's writer, made after any fork: one pooled client per process."""
    writer = _writers.get(os.getpid())
    if writer is None:
        from hermes_tasks.honcho.client import HonchoClient
        from hermes_tasks.honcho.writer import Writer

        writer = _writers[os.getpid()] = Writer(HonchoClient.from_settings(app.settings))
    return writer
