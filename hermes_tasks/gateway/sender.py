"""Sends one outbox row as a Celery task and says what Redis made of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError
from redis.exceptions import ResponseError

import hermes_tasks.tasks  # noqa: F401 - registers the task
from hermes_tasks.app import TASK
from hermes_tasks.errors import HermesTasksError, InvalidTurn
from hermes_tasks.gateway.link import FAILURES, Link, error_code
from hermes_tasks.transport import PushAnswer, push_answers

if TYPE_CHECKING:
    from celery import Celery

    from hermes_tasks.gateway.outbox import Row


class Unsendable(HermesTasksError):
    """A row that can never be sent. The message says why, without its content."""


class RowFailed(HermesTasksError):
    """A row that failed while Redis answers: perhaps it alone, perhaps for ever."""


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

    def connect(self) -> None:
        """Make sure that Redis is there.

        Raises:
            BrokerUnavailable: it is not.
        """
        self.link.channel()

    def send(self, row: Row, incarnation: str, previous: int | None) -> PushAnswer:
        """Send a row.

        Args:
            row: what to send.
            incarnation: whose number the row has.
            previous: the number that Redis must have had from this incarnation before; ``None``: it
                does not matter.

        Raises:
            BrokerUnavailable: Redis did not answer or takes nothing now; the row may have arrived.
            Unsendable: the row is no turn, and never will be.
            RowFailed: Redis is there, but the row could not be sent.
        """
        headers: dict[str, Any] = {"session_gateway": incarnation, "session_number": row.number}
        if previous is not None:
            headers["session_previous"] = previous
        turn = _turn(row)
        channel = self.link.channel()
        try:
            with push_answers() as answers:
                self._task.apply_async(
                    (turn,),
                    task_id=row.turn_id,
                    producer=self._app.amqp.Producer(channel, auto_declare=False),
                    headers=headers,
                    retry=False,
                )
        except InvalidTurn as error:
            raise Unsendable(str(error)) from error
        except EncodeError:
            raise Unsendable("it cannot be encoded") from None
        except FAILURES as error:
            cause = error.__cause__ or error
            if isinstance(cause, ResponseError) and _is_about_the_session(cause):
                raise RowFailed(f"Redis refuses it: {error_code(cause)}") from error
            raise self.link.broken(error) from error
        except Exception as error:  # noqa: BLE001 - whatever it is, other turns must go on
            # Without its cause, whose text could quote the turn.
            raise RowFailed(f"{type(error).__name__} while sending it") from None
        # No answer: the app runs tasks in place (`task_always_eager`), so it is done.
        return answers[-1] if answers else PushAnswer("accepted", 0)


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
