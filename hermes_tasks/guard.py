"""A session's lease behind the gate: the right to call Honcho now, and what became of the call.

Here the queue, the gate and the writing side meet; none of them knows the others. The gate
protects, it never blocks: when Redis does not answer it in time, the call goes ahead on the lease
alone, with the deadline of a gate that knows nothing, and is counted.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError

from hermes_tasks import tracing
from hermes_tasks.errors import (
    DeadlineExceeded,
    HonchoError,
    LeaseLost,
    Overloaded,
    RateLimited,
    SessionHeld,
    Unauthorised,
    Unreachable,
)
from hermes_tasks.gate import Ended, Gate, Go, Hold, Policy, State
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.transport import BatchMessage, SessionLease, SessionStore
from hermes_tasks.transport.keeper import private_store

logger = logging.getLogger(__name__)

#: Seconds within which Redis must answer the gate, or the call goes ahead without it.
GATE_TIMEOUT = 0.25

#: Gates that a process keeps ready, of as many workspaces.
GATES_KNOWN = 1_000


class GatedLease:
    """The right to call Honcho for one batch. A :class:`~hermes_tasks.honcho.writer.WriteGuard`.

    Args:
        lease: the right to write for the session.
        gate: decides when a call may start, and how long it may take.
        worker: name of the worker that calls.
        resent: ids of turns whose gateway does not know whether Redis had accepted them before.

    Attributes:
        lease: the right to write for the session.
        turns: how many turns the latest call was to write.
        wrote: a call that writes was let through.
        timed_out: the latest call was cut at its deadline, and that was the longest there is.
        calling: whether calls are made at all, as far as the latest report knows.
    """

    def __init__(
        self, lease: SessionLease, gate: Gate, worker: str, resent: Collection[str] = ()
    ) -> None:
        self.lease = lease
        self._gate = gate
        self._worker = worker
        self._resent = resent
        self._settled: set[str] = set()
        self.turns = len(lease.messages)
        self.wrote = False
        self.timed_out = False
        self.calling = True

    @property
    def head(self) -> BatchMessage | None:
        """The oldest message that is not settled, or ``None``."""
        return next((m for m in self.lease.messages if m.id not in self._settled), None)

    @property
    def rewritten(self) -> Collection[str]:
        """The latest turns of the session that were written while in doubt."""
        return self.lease.rewritten

    @contextmanager
    def call(self, messages: int = 0, ids: Iterable[str] = ()) -> Iterator[Call]:
        """Open a call: the last step before its first byte. It is over when the block is left.

        Args:
            messages: how many it carries; none for one that writes nothing.
            ids: the turns they are of.

        Raises:
            LeaseLost: another worker may have the session.
            SessionHeld: the gate took the session; nothing was sent.
        """
        ids = list(ids)
        # Before Redis notes the call's latest end: it must not be earlier than the call's own.
        began = time.monotonic()
        go = self._admit(messages, ids)
        self.turns, self.timed_out = len(ids) or len(self.lease.messages), False
        self.wrote = self.wrote or bool(messages)
        if go is None:
            seconds, delay = self._gate.policy.default, 0.0
        else:
            seconds, delay = go.deadline / 1000, go.delay / 1000
        call = Call(seconds, self.lease.check, messages=messages, began=began + delay)
        if delay:
            time.sleep(delay)
        failure: BaseException | None = None
        started = time.monotonic()
        try:
            with tracing.calling(messages, seconds):
                yield call
        except BaseException as error:
            failure = error
            raise
        finally:
            took = time.monotonic() - started
            self.timed_out = (
                isinstance(failure, DeadlineExceeded) and seconds >= self._gate.policy.ceiling
            )
            if go is not None:
                self._report(go, call, failure, took)

    def found(self, ids: Iterable[str], twice: Collection[str]) -> None:
        """These turns are stored already; a part of those ``twice`` is more than once."""
        ids = list(ids)
        self.lease.commit_found(ids, twice)
        self._settled.update(ids)

    def ask_again(self, ids: Iterable[str]) -> bool:
        """Whether turns that are not stored are to be asked for once more before they are written.

        Raises:
            SessionHeld: an earlier call may still land; the session sleeps until it cannot.
        """
        return self.lease.ask_again(ids, self._resent)

    def in_doubt(self, error: HonchoError) -> bool:
        """Whether, after this error of the latest call, a call that writes may still land.

        One that writes is let through only when none before it can land. So its answer ends all
        doubt; that of a question does not.
        """
        return error.may_have_been_written or not self.wrote

    def commit(self, ids: Iterable[str]) -> None:
        """These turns have just been stored, all their parts."""
        ids = list(ids)
        self.lease.commit(ids, at_end=True)
        self._settled.update(ids)

    def bury(self, turn_id: str, reason: str, detail: str) -> None:
        """This turn will never be taken: the answer to the latest call says so."""
        self.lease.bury(turn_id, reason, detail, in_doubt=not self.wrote)
        self._settled.add(turn_id)

    def give_up(self, turn_id: str, error: HonchoError) -> None:
        """This turn has waited long enough; ``error`` is how the latest call for it failed."""
        said = f"{type(error).__name__}: {error}"
        self.lease.bury(turn_id, "given_up", said, in_doubt=self.in_doubt(error))
        self._settled.add(turn_id)

    def _admit(self, messages: int, ids: list[str]) -> Go | None:
        """``None``: the gate did not answer, and the lease holds."""
        lease, at, name = self.lease, SessionLease.now(), self._gate.name
        bypassed = _bypassed.pop(name, 0)
        try:
            answer = self._gate.admit(
                lease.session,
                lease.token,
                lease.numbers(ids),
                f"{self._worker}#{uuid.uuid4().hex}",
                messages,
                bypassed=bypassed,
            )
        except RedisError as error:
            logger.debug("The gate does not answer (%s): going ahead", type(error).__name__)
            _bypassed[name] = bypassed + 1
            # If it did let the call through, or held the session, and only the answer was lost,
            # this is the same intent once more, or a lease that is over.
            lease.begin(ids)
            return None
        if answer is None:
            raise LeaseLost(f"the lease on session {lease.session} is over; another worker has it")
        if isinstance(answer, Hold):
            raise SessionHeld(f"session {lease.session} is held: {answer.why}")
        lease.began(at + answer.delay / 1000)
        return answer

    def _report(self, go: Go, call: Call, failure: BaseException | None, took: float) -> None:
        retry_after = failure.retry_after if isinstance(failure, RateLimited) else None
        why = ""
        if isinstance(failure, Unauthorised):
            why = f"HTTP {failure.status}: {failure.advice}"
        try:
            state = self._gate.report(go, ended(failure, call), took, retry_after, why=why)
        except RedisError as error:
            logger.debug("The gate does not hear how a call ended (%s)", type(error).__name__)
            return
        self.calling = state is State.CLOSED
        if failure is None:
            _denied_since.pop(self._gate.name, None)
        elif why and self.calling:
            self._denied_alone(why)

    def _denied_alone(self, why: str) -> None:
        """Say once that other workers are let in, and this one is not.

        A key that ends for all of them does so while others have just been well: then the gate
        says it, and this does not last.
        """
        now, name = time.monotonic(), self._gate.name
        if now - _denied_since.setdefault(name, now) > self._gate.policy.ceiling:
            _denied_since[name] = math.inf
            logger.error("%s denies every call of this worker alone (%s)", name, why)


def ended(failure: BaseException | None, call: Call) -> Ended:
    """How a call ended, as the gate counts it: what it says of the backend."""
    if failure is None:
        return Ended.OK
    if isinstance(failure, RateLimited):
        return Ended.LIMITED
    if isinstance(failure, Unauthorised):
        return Ended.DENIED
    if isinstance(failure, DeadlineExceeded):
        return Ended.TIMEOUT
    if isinstance(failure, Unreachable):
        return Ended.FAILED
    if isinstance(failure, Overloaded):
        # 408, 409 and 425 pass as well, but it is the backend that gives them.
        return Ended.FAILED if (failure.status or 0) >= 500 else Ended.REFUSED
    if isinstance(failure, HonchoError) and failure.status is not None:
        return Ended.REFUSED
    if not call.sent:
        return Ended.UNSENT
    # An answer that is not one of Honcho, or a task that was stopped in the middle of its call.
    return Ended.FAILED if isinstance(failure, HonchoError) else Ended.TIMEOUT


#: Calls this process made without its gate, until that can be told.
_bypassed: dict[str, int] = {}

#: Since when the backend of a gate denies this process while it lets others in; never: it was said.
_denied_since: dict[str, float] = {}

_stores: dict[tuple[int, int], SessionStore] = {}
_gates: dict[tuple[int, int, str], Gate] = {}


def gate_of(app: Any, backend: str, workspace: str) -> Gate:
    """The gate of a backend, with connections of this process that do not wait for Redis."""
    key = (os.getpid(), id(app))
    store = _stores.get(key)
    if store is None:
        store = _stores.setdefault(
            key, private_store(app.connection_for_write(), timeout=GATE_TIMEOUT)
        )
    name = f"{backend}:{workspace}"
    gate = _gates.get((*key, name))
    if gate is None:
        if len(_gates) >= GATES_KNOWN:
            _gates.clear()
        gate = _gates[(*key, name)] = Gate(store, Policy.from_settings(app.settings), name)
    return gate
