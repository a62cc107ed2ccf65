"""The worker's view of a batch: one Celery request, and the events of every turn in it."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.request import Request

from hermes_tasks.transport import wire
from hermes_tasks.transport.keeper import holding_of

#: The text of a :class:`~.task.BatchResult`, or of what is derived from it.
_SETTLES = re.compile(r"\w+\(settles=(?P<count>[1-9]\d*), dead=[\[(]")

#: Longest time limit of a task, in seconds: a timer takes no number.
_LONGEST = 365 * 86_400


class BatchRequest(Request):
    """A request that may carry followers: messages written with it, each a task of its own.

    The followers' events are sent beside the head's, so that Flower and every other monitor count
    each of them. Arguments appear only as the ``argsrepr`` they were published with.
    """

    def __init__(self, message: Any, *args: Any, **options: Any) -> None:
        super().__init__(message, *args, **options)
        # Celery reads these when the request has a slot of the pool already. What it stumbles over
        # there takes the slot away for good, or ends the worker; here, it is refused.
        limits = self.time_limits
        if (
            not isinstance(limits, list | tuple)
            or len(limits) != 2
            or not all(map(_is_limit, limits))
        ):
            raise InvalidTaskError("its time limits are none")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Celery makes a class for each task, whose `on_success` does not call that of its base.
        finish = cls.__dict__.get("on_success")
        if finish is None:
            return

        def on_success(self: BatchRequest, outcome: Any, **options: Any) -> Any:
            self._note_written(outcome)
            return finish(self, outcome, **options)

        cls.on_success = on_success

    def _note_written(self, outcome: Any) -> None:
        """Before the acknowledgement: what it settles. ``outcome``: as a pool gives it."""
        failed, result, _runtime = outcome
        says = None if failed else _SETTLES.match(str(result))
        found = says and holding_of(self._request_dict["properties"]["delivery_tag"])
        if says and found:
            holding = found[1]
            batch = holding.claim.items[: int(says["count"])]
            holding.written = tuple(item.id for item in batch)

    def on_failure(self, *args: Any, **options: Any) -> None:
        """A task has failed, was killed or has lost its process."""
        super().on_failure(*args, **options)
        if self._already_cancelled and not self.acknowledged:
            # Celery ended it because the connection was lost, and leaves its message to the broker.
            # Nobody else knows that its process is gone.
            token = self.message.delivery_tag
            if found := holding_of(token):
                found[0].release([token])

    @cached_property
    def followers(self) -> dict[str, dict[str, Any]]:
        """Headers of the followers by task id; those that cannot be read are not started."""
        info = (self._request_dict.get("properties") or {}).get("session") or {}
        found: dict[str, dict[str, Any]] = {}
        for _number, id, text, _accepted in info.get("followers", ()):
            try:
                found[id] = wire.unpack(text)["headers"]
            except (ValueError, TypeError, KeyError, RecursionError):
                break
        return found

    def send_event(self, type: str, **fields: Any) -> None:
        super().send_event(type, **fields)
        if not self._sends_task_events:
            return
        for id, headers in self.followers.items():
            if type == "task-started":
                self._send_received(id, headers)
                self._eventer.send(type, uuid=id)
            elif type == "task-succeeded":
                self._send_ended(id, fields)
            elif type in ("task-retried", "task-failed"):
                # They are still queued, and start again with another batch.
                self._eventer.send("task-retried", uuid=id, **fields)

    @property
    def _sends_task_events(self) -> bool:
        eventer = self._eventer
        if not (eventer and eventer.enabled and self.task.send_events):
            return False
        return not eventer.groups or "task" in eventer.groups

    def _send_received(self, id: str, headers: dict[str, Any]) -> None:
        self._eventer.send(
            "task-received",
            uuid=id,
            name=headers.get("task"),
            args=headers.get("argsrepr"),
            kwargs=headers.get("kwargsrepr"),
            root_id=headers.get("root_id"),
            parent_id=headers.get("parent_id"),
            retries=headers.get("retries", 0),
            eta=None,
            expires=None,
        )

    def _send_ended(self, id: str, fields: dict[str, Any]) -> None:
        # The pool hands over the result as its repr; a batch task names in it what it gave up.
        if repr(id) in str(fields.get("result")):
            self._eventer.send(
                "task-failed", uuid=id, exception="a dead letter, see its reason", traceback=""
            )
        else:
            self._eventer.send("task-succeeded", uuid=id, **fields)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What ``inspect`` and Flower show of it: never the arguments themselves."""
        described: dict[str, Any] = super().info(safe=True)
        return described


def _is_limit(limit: object) -> bool:
    return limit is None or (isinstance(limit, int | float) and 0 <= limit <= _LONGEST)
