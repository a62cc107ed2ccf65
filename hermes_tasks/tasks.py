"""The Celery task: one per turn or conclusion, thin."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    MissingKey,
    RateLimited,
    SessionHeld,
    Unauthorised,
)
from hermes_tasks.sealing import Keyring, Sealed, is_sealed, keyring_of
from hermes_tasks.transport import BatchResult, BatchTask, SessionLease
from hermes_tasks.transport.channel import SIZE_HEADER
from hermes_tasks.turns import Memory, from_json

if TYPE_CHECKING:
    from hermes_tasks.guard import GatedLease

logger = get_task_logger(__name__)

#: Waits between attempts while Honcho fails, in seconds: doubling, jittered down to half.
RETRY_FIRST = 1.0
RETRY_LONGEST = 15.0

#: Waits of a session whose turns this worker has no key for, in seconds: another may have it.
KEY_FIRST = 5.0
KEY_LONGEST = 60.0
#: Seconds between two complaints of a process about the same key.
MISSING_KEY_EVERY = 300.0


class TurnTask(BatchTask):
    """Publishes turns: the task id is the turn id, and only numbers stand for its text."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        turn = args[0] if args else (kwargs or {})["turn"]
        described: Memory | Sealed
        if is_sealed(turn):
            described = Sealed.from_json(turn)
        else:
            described = from_json(turn)
            if keyring := keyring_of(getattr(self.app, "settings", None)):
                turn = keyring.seal(described).to_json()
                if args:
                    args = (turn, *args[1:])
                else:
                    kwargs = {**kwargs, "turn": turn}
        options.setdefault("argsrepr", f"({described.describe()})")
        options.setdefault("kwargsrepr", "{}")
        options["headers"] = {**(options.get("headers") or {}), SIZE_HEADER: described.size}
        if not more:
            options.setdefault("task_id", described.turn_id)
        return super().apply_async(args, kwargs, *more, **options)


@dataclass(frozen=True, slots=True)
class Result(BatchResult):
    """What became of a batch; where results are kept, this is in JSON, but for ``settles``.

    Attributes:
        session: its session.
        written: how many turns were written, now or before.
    """

    session: str
    written: int

    def __json__(self) -> dict[str, Any]:
        return {"session": self.session, "written": self.written, "dead": self.dead}


@shared_task(base=TurnTask, bind=True, name=TASK, max_retries=None)
def sync_turn(self: Any, turn: dict[str, Any]) -> Result:
    """Write a turn, and those that were batched behind it, to Honcho."""
    lease = SessionLease.of(self)
    if lease is None:
        raise InvalidTurn("a turn must come through its session's queue, or order is lost")
    try:
        turns = readable(lease, keyring_of(self.app.settings))
    except MissingKey as error:
        wait_for_key(lease, error)
        raise Ignore from None
    except InvalidTurn as error:
        # It may be its own fault or that of an older worker: let it try elsewhere, alone.
        logger.error("Turn %s or one behind it cannot be read: %s", self.request.id, error)
        raise
    guard = guard_of(self, lease, turns)
    try:
        try:
            headers = [message.headers for message in lease.messages[: len(turns)]]
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
        return Result(0, [dead], lease.session, 0)
    written = report.written + report.found
    return Result(lease.settles, list(report.dead), lease.session, written)


def readable(lease: SessionLease, keyring: Keyring) -> list[Memory]:
    """The turns of a batch, up to the first that is sealed with a key that is not here.

    Raises:
        InvalidTurn: one of them is not a turn.
        MissingKey: the first cannot be opened.
    """
    turns: list[Memory] = []
    for message in lease.messages:
        try:
            turns.append(keyring.read(message.args[0]))
        except MissingKey:
            if not turns:
                raise
            break  # left in flight, it is the head of the next claim
    return turns


def wait_for_key(lease: SessionLease, error: MissingKey) -> None:
    """Put a batch off that another worker can open, or this one when it is given the key.

    However old it is: nothing is wrong with it.
    """
    now = time.monotonic()
    if now >= _missing_said.get(error.key, 0.0) + MISSING_KEY_EVERY:
        _missing_said[error.key] = now
        logger.error("No turn is lost, but some wait: %s", error)
    seconds = min(KEY_FIRST * 2.0 ** min(lease.tries, 16), KEY_LONGEST) * random.uniform(0.5, 1.0)
    try:
        lease.postpone(seconds, len(lease.messages), f"MissingKey: {error}")
        lease.count("without_key")
    except (LeaseLost, RedisError) as lost:
        logger.debug("%s", type(lost).__name__)


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


#: When this process last said that it lacks a key, by its fingerprint.
_missing_said: dict[str, float] = {}

_writers: dict[int, Any] = {}


def writer_of(app: Any) -> Any:
    """This process's writer, made after any fork: one pooled client per process."""
    writer = _writers.get(os.getpid())
    if writer is None:
        from hermes_tasks.honcho.client import HonchoClient
        from hermes_tasks.honcho.writer import Writer

        writer = _writers[os.getpid()] = Writer(HonchoClient.from_settings(app.settings))
    return writer
