"""Sends outbox rows as Celery tasks, many in one round trip, and says what Redis made of them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError
from redis.exceptions import RedisError, ResponseError

import hermes_tasks.tasks  # noqa: F401 - registers the task
from hermes_tasks import tracing
from hermes_tasks.app import TASK
from hermes_tasks.errors import HermesTasksError, InvalidTurn
from hermes_tasks.gateway.link import FAILURES, Link, error_code
from hermes_tasks.gateway.stencil import Stencil
from hermes_tasks.sealing import Sealed, is_sealed, keyring_of
from hermes_tasks.transport import Push, PushAnswer, collected_pushes, push_all
from hermes_tasks.turns import Memory, encode, from_json, session_key

if TYPE_CHECKING:
    from celery import Celery

    from hermes_tasks.gateway.outbox import Row


class Unsendable(HermesTasksError):
    """A row that can never be sent. The message says why, without its content."""


class RowFailed(HermesTasksError):
    """A row that failed while Redis answers: perhaps it alone, perhaps for ever."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A row that is ready to be sent.

    Attributes:
        push: its message; ``None``: the app runs tasks in place (``task_always_eager``), so that
            the row is done.
        traced: its way to Redis.
    """

    push: Push | None
    traced: tracing.Traced


class Sender:
    """Sends rows over one connection, in one thread.

    Args:
        app: the Celery application that has the task and the broker.
        link: the connection.
    """

    def __init__(self, app: Celery, link: Link) -> None:
        self.link = link
        self._app = app
        self._task = app.tasks[TASK]
        self._keyring = keyring_of(getattr(app, "settings", None))
        self._stencil: Stencil | None = None

    def connect(self) -> str:
        """Make sure that Redis is there, or was a moment ago; the run id of its process.

        Raises:
            BrokerUnavailable: it is not.
        """
        self.link.channel()
        return str(self.link.server)

    def pack(self, row: Row, incarnation: str, previous: int | None) -> Parcel:
        """Make a row the message that is sent.

        Args:
            row: what to send.
            incarnation: whose number the row has.
            previous: the number that Redis must have had from this incarnation before; ``None``: it
                does not matter.

        Raises:
            BrokerUnavailable: Redis is not there.
            Unsendable: the row is no turn, and never will be.
            RowFailed: it cannot be packed now, for whatever reason.
        """
        turn = _turn(row)
        carrier = tracing.carried(turn.pop(tracing.CARRIER, None))
        traced = tracing.publishing(carrier, row.turn_id, row.session_key, resent=row.attempted)
        traced.attach()
        try:
            carrier = traced.carrier() or carrier
            push = None if carrier else self._stencilled(row, turn, incarnation, previous)
            if push is None:
                headers = {"session_gateway": incarnation, "session_number": row.number, **carrier}
                if previous is not None:
                    headers["session_previous"] = previous
                push = self._message(row.turn_id, turn, headers)
                if push is not None and not carrier:
                    self._stencil = Stencil.of(push)
            return Parcel(push, traced)
        except HermesTasksError as error:
            traced.end(error)
            raise
        finally:
            traced.detach()

    def send(self, parcels: Sequence[Parcel]) -> Iterator[PushAnswer]:
        """Send messages in order, in one round trip, and yield what Redis answered to each.

        Raises:
            BrokerUnavailable: Redis takes nothing now; what was not answered may have arrived.
            RowFailed: Redis is there, but refuses the message whose answer would be next. Those
                behind it, of other sessions, may have arrived.
        """
        waiting = deque(parcels)
        try:
            for answer in self._send([parcel.push for parcel in parcels]):
                waiting[0].traced.set("hermes_tasks.answer", answer.status)
                waiting.popleft().traced.end()
                yield answer
        except HermesTasksError as error:
            for parcel in waiting:
                parcel.traced.end(error)
            raise

    def _stencilled(
        self, row: Row, turn: dict[str, Any], incarnation: str, previous: int | None
    ) -> Push | None:
        """The message that Celery would make of a row, where it is as others were."""
        if self._stencil is None or not self._stencil.is_enough:
            return None
        try:
            if is_sealed(turn):
                described: Memory | Sealed = Sealed.from_json(turn)
            elif self._keyring:
                return None  # the task seals it
            else:
                described = from_json(turn)
        except InvalidTurn as error:
            raise Unsendable(str(error)) from error
        session = session_key(described.backend, described.workspace, described.session)
        if (session, described.turn_id) != (row.session_key, row.turn_id):
            return None
        return self._stencil.message(
            session,
            described,
            encode(turn) if row.attempted else row.body,
            sender=incarnation,
            sent=row.number,
            previous=previous,
        )

    def _message(self, turn_id: str, turn: dict[str, Any], headers: dict[str, Any]) -> Push | None:
        channel = self.link.channel()
        try:
            with collected_pushes() as pushes:
                self._task.apply_async(
                    (turn,),
                    task_id=turn_id,
                    producer=self._app.amqp.Producer(channel, auto_declare=False),
                    headers=headers,
                    retry=False,
                )
        except InvalidTurn as error:
            raise Unsendable(str(error)) from error
        except EncodeError:
            raise Unsendable("it cannot be encoded") from None
        except FAILURES as error:  # an event of the task, perhaps
            raise self.link.broken(error) from error
        except Exception as error:  # noqa: BLE001 - whatever it is, other turns must go on
            # Without its cause, whose text could quote the turn.
            raise RowFailed(f"{type(error).__name__} while packing it") from None
        return pushes[-1] if pushes else None

    def _send(self, packed: Sequence[Push | None]) -> Iterator[PushAnswer]:
        store = self.link.channel().sessions
        pushes = [push for push in packed if push is not None]
        begun = time.monotonic()
        try:
            answers = iter(push_all(store, pushes) if pushes else [])
        except FAILURES as error:
            raise self._failure(error) from error
        if pushes:
            self.link.answered_at = begun
        for push in packed:
            answer: PushAnswer | RedisError
            answer = PushAnswer("accepted", 0) if push is None else next(answers)
            if push is not None and isinstance(answer, PushAnswer) and answer.status == "gap":
                answer = self._close_gap(push)
            if isinstance(answer, RedisError):
                raise self._failure(answer) from answer
            yield answer

    def _close_gap(self, push: Push) -> PushAnswer | RedisError:
        """Send a message again that Redis refused because the one before it never arrived.

        That one was refused or dropped, or Redis lost it, or had it from elsewhere, as it does when
        it is sent again and still queued. Whichever it was, all before this one has been answered
        by now: it is next, and names no predecessor any more, so that it can meet no second gap.
        """
        push = replace(push, options={**push.options, "previous": None})
        try:
            (answer,) = push_all(self.link.channel().sessions, [push])
        except FAILURES as error:
            raise self._failure(error) from error
        return answer

    def _failure(self, error: Exception) -> HermesTasksError:
        """What an error of Redis means for the row that it came for."""
        if isinstance(error, ResponseError) and _is_about_the_session(error):
            return RowFailed(f"Redis refuses it: {error_code(error)}")
        return self.link.broken(error)


def _turn(row: Row) -> dict[str, Any]:
    try:
        turn = json.loads(row.body)
    except ValueError:
        # Without its cause, which holds the whole text.
        raise Unsendable("it is not JSON") from None
    if not isinstance(turn, dict):
        raise Unsendable("it is not a turn")
    if row.attempted:
        turn["ask"] = True
    return turn


def _is_about_the_session(error: ResponseError) -> bool:
    """Whether this session's keys are the trouble, rather than Redis refusing every write."""
    text = str(error)
    return text.startswith("WRONGTYPE") or (
        # The script itself failed; a refusal in a script (OOM, MISCONF) begins with its code.
        type(error) is ResponseError and text.startswith("user_script")
    )
