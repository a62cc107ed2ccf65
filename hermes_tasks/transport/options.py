"""How the sessions of a deployment behave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from hermes_tasks.transport.keys import DEFAULT_PREFIX


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions behave; every field is a transport option named ``session_<field>``.

    Attributes:
        prefix: name of the deployment, in every key and queue name.
        lease: seconds a worker's right to a session lasts unless renewed.
        waiting_limit: messages a session queue holds before the oldest overflow to the backlog.
        backlog_limit: messages the backlog holds before the oldest is given up.
        batch_messages: most messages in one batch.
        batch_size: most size (the sum of the ``session_size`` headers) in one batch.
        max_attempts: failed attempts in a row after which a head is a dead letter.
        retry_first: seconds to wait after the first failed attempt, doubling, jittered.
        retry_longest: the longest such wait, in seconds.
        dead_max_age: seconds that a dead letter is kept.
        lease_max_age: seconds after which a claim is no longer renewed: no task should take so
            long, and the threads pool has no hard time limit of its own.
        landing: seconds after its start in which a call that a task makes may still take effect,
            whatever the task has heard of it.
        message_limit: bytes of a message above which it is given up unread; 0: none is too long.
    """

    prefix: str = DEFAULT_PREFIX
    lease: float = 15.0
    waiting_limit: int = 64
    backlog_limit: int = 256
    batch_messages: int = 50
    batch_size: int = 100
    max_attempts: int = 5
    retry_first: float = 1.0
    retry_longest: float = 60.0
    dead_max_age: float = 30 * 86_400.0
    lease_max_age: float = 600.0
    landing: float = 45.0
    message_limit: int = 0

    @classmethod
    def from_transport_options(cls, options: dict[str, Any]) -> Self:
        """Read the ``session_*`` entries of Kombu's ``transport_options``."""
        return cls(
            **{
                name: options[f"session_{name}"]
                for name in cls.__dataclass_fields__
                if f"session_{name}" in options
            }
        )

    @property
    def lease_ms(self) -> int:
        return int(self.lease * 1000)

    @property
    def landing_ms(self) -> int:
        return math.ceil(self.landing * 1000)
