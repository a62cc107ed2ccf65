"""Conversation turns from Hermes gateways to the Honcho memory service, in order, through Celery.

A gateway needs :class:`TurnSync`; a worker is ``celery -A hermes_tasks worker``. Importing this
package loads neither: each comes when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_tasks.errors import (
    BrokerUnavailable,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    GivenUp,
    HermesTasksError,
    HonchoError,
    InvalidTurn,
    LeaseLost,
    MissingExtra,
    MissingKey,
    OutboxError,
    Overloaded,
    QueueError,
    RateLimited,
    Refused,
    SessionDeleted,
    SessionHeld,
    SourceError,
    StillSyncing,
    Unauthorised,
    UnknownGate,
    UnknownLetter,
    UnknownSession,
    Unreachable,
)

if TYPE_CHECKING:
    from hermes_tasks.gateway.sync import CloseReport, Receipt, TurnSync

__all__ = [
    "BrokerUnavailable",
    "CloseReport",
    "Closed",
    "ConfigurationError",
    "DeadlineExceeded",
    "GivenUp",
    "HermesTasksError",
    "HonchoError",
    "InvalidTurn",
    "LeaseLost",
    "MissingExtra",
    "MissingKey",
    "OutboxError",
    "Overloaded",
    "QueueError",
    "RateLimited",
    "Receipt",
    "Refused",
    "SessionDeleted",
    "SessionHeld",
    "SourceError",
    "StillSyncing",
    "TurnSync",
    "Unauthorised",
    "UnknownGate",
    "UnknownLetter",
    "UnknownSession",
    "Unreachable",
]


def __getattr__(name: str) -> Any:
    if name in ("TurnSync", "Receipt", "CloseReport"):
        from hermes_tasks.gateway import sync

        return getattr(sync, name)
    if name == "celery":
        # Where `celery -A hermes_tasks` looks. `app`, where it looks first, is a module here.
        from hermes_tasks.app import worker_app

        return worker_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
