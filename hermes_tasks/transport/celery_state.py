"""What the transport asks of the Celery worker it runs in. Nothing, where no worker runs."""

from __future__ import annotations

from typing import Any

from celery import current_app
from celery.worker import state


def is_revoked(id: str) -> bool:
    """Whether a task was revoked; only the worker's main process knows."""
    return id in state.revoked


def running_tokens() -> frozenset[str]:
    """Delivery tags of the messages whose task a pool process or thread has started."""
    return frozenset(request.message.delivery_tag for request in tuple(state.active_requests))


def is_stopping() -> bool:
    """Whether the worker was told to shut down warm, to end what it has begun."""
    if state.should_terminate is not None and state.should_terminate is not False:
        return False
    return state.should_stop is not None and state.should_stop is not False


def reserved() -> int:
    """How many tasks the worker has taken on and not ended."""
    return len(state.reserved_requests)


def acknowledges_early(task: str) -> bool:
    """Whether a known task is acknowledged before it runs. An unknown one is Celery's to refuse."""
    found: Any = current_app.tasks.get(task)
    return found is not None and not found.acks_late
