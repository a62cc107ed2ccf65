"""What an application's tasks need to keep order: a base class and the name of a queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from celery import Task
from celery.backends.base import DisabledBackend
from kombu import Exchange, Queue

from hermes_tasks.transport.channel import ALONE_HEADER, UNANSWERED_HEADER
from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names
from hermes_tasks.transport.wire import SETTLE_HEADER

#: Options of ``apply_async`` that belong to one message and would be lost in a batch.
_PERSONAL = ("link", "link_error", "chord", "chain", "group_id", "time_limit", "soft_time_limit")


def session_queue(session: str, prefix: str = DEFAULT_PREFIX) -> Queue:
    """The queue of a session, as an object for ``apply_async(queue=…)`` and routers.

    An object, because naming a queue by string adds it to ``app.amqp.queues`` for ever; and never
    declared, because a declared queue leaves a binding behind in Redis.
    """
    return _undeclared(Names(prefix).queue(session))


@lru_cache(maxsize=1024)  # it takes as long to make as all the rest of a message
def _undeclared(name: str) -> Queue:
    return Queue(name, Exchange(""), routing_key=name, no_declare=True, durable=False)


class OrderedTask(Task):
    """Base of tasks that run in the order of their session.

    Acknowledged late, and retried in place: ``self.retry(countdown=…)`` keeps the message at the
    head of its session, which sleeps in Redis until then. The acknowledgement settles the message.
    """

    abstract = True
    acks_late = True
    Request = "hermes_tasks.transport.request:BatchRequest"

    def signature_from_request(self, request: Any = None, *args: Any, **kwargs: Any) -> Any:
        request = self.request if request is None else request
        signature = super().signature_from_request(request, *args, **kwargs)
        if (request.properties or {}).get("session") and isinstance(
            signature.options.get("queue"), str
        ):
            signature.options["queue"] = _undeclared(signature.options["queue"])
        for name in ("argsrepr", "kwargsrepr"):
            # Celery would make them anew, of arguments that were not to be shown.
            if (shown := request.get(name)) is not None:
                signature.options.setdefault(name, shown)
        return signature


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch task may return; its text is all that the worker's main process gets of it.

    Not a mapping, which Celery takes apart to show it: that costs more than a call of Redis.

    Attributes:
        settles: messages, from the first, that leave the queue with the acknowledgement:
            ``lease.settles``.
        dead: ids of those given up.
    """

    settles: int
    dead: Sequence[str]


class BatchTask(OrderedTask):
    """Base of tasks that work on a whole batch and settle each message of it themselves.

    In the task, ``SessionLease.of(self)`` gives the batch; what it commits or buries is settled,
    what it does not is delivered again. A result that names ids of followers says that they were
    given up; a :class:`BatchResult` may also say what its acknowledgement settles. Messages with
    options of their own (links, chords, time limits) stay alone.
    """

    abstract = True

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        headers = {**(options.pop("headers", None) or {}), SETTLE_HEADER: "commit"}
        if link or link_error or any(options.get(name) for name in _PERSONAL):
            headers[ALONE_HEADER] = True
        if isinstance(self.backend, DisabledBackend):
            # Nobody here can receive a result: the message need not say where to send it.
            headers[UNANSWERED_HEADER] = True
        # A worker knows the limits of the task itself.
        options = {"time_limit": None, "soft_time_limit": None, **options}
        return super().apply_async(
            args, kwargs, task_id, producer, link, link_error, shadow, headers=headers, **options
        )
