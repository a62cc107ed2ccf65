"""The turns of a session that Flower has seen in Celery's events."""

from __future__ import annotations

from typing import Any

#: Events looked through for them, the newest: Flower's loop does nothing else meanwhile.
LOOKED_THROUGH = 20_000


def recent_turns(state: Any, session: str, limit: int = 50) -> list[dict[str, Any]]:
    """Turns of a session, the latest first.

    Args:
        state: :class:`celery.events.state.State`, on the thread that owns it.
        session: the key of the session, as :meth:`hermes_tasks.turns.Turn.describe` has it.
        limit: at most so many.
    """
    described = f"(session={session}, "
    found: list[dict[str, Any]] = []
    for id, task in state.tasks_by_time(limit=LOOKED_THROUGH):
        if (task.args or "").startswith(described):
            found.append(_turn(id, task))
            if len(found) == limit:
                break
    return found


def _turn(id: str, task: Any) -> dict[str, Any]:
    return {
        "id": id,
        "state": task.state,
        "at": task.timestamp,
        "runtime": task.runtime,
        "worker": task.worker.hostname if task.worker is not None else None,
        "retries": task.retries,
    }
