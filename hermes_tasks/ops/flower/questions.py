"""What the pages ask Redis, and the JSON they get: never a word of a conversation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from hermes_tasks.ops.diagnosis import SILENT_SECONDS, diagnose
from hermes_tasks.ops.history import read_history
from hermes_tasks.ops.listing import list_sessions, read_session
from hermes_tasks.ops.overview import read_overview
from hermes_tasks.transport.dead import DeadLetter, DeadLetters

if TYPE_CHECKING:
    from hermes_tasks.gate import Policy
    from hermes_tasks.transport import SessionStore

#: Dead letters on the first page; ``hermes-tasks dead list`` has the others.
LETTERS = 10


def overview(store: SessionStore, policy: Policy) -> dict[str, Any]:
    """What ``hermes-tasks status --json`` has, the last hour, and the last dead letters."""
    found, past = read_overview(store, policy), read_history(store)
    return {
        "overview": dataclasses.asdict(found),
        "problems": [dataclasses.asdict(problem) for problem in diagnose(found, past)],
        "history": [_short(dataclasses.asdict(sample)) for sample in past],
        "silent_after": SILENT_SECONDS,
        "letters": [_letter(letter) for letter in DeadLetters(store).newest(limit=LETTERS)],
    }


def sessions(
    store: SessionStore, *, cursor: str = "", limit: int = 50, state: str | None = None
) -> dict[str, Any]:
    """A page of sessions, those that lag most first.

    Raises:
        ValueError: there is no such cursor or state.
    """
    return dataclasses.asdict(list_sessions(store, cursor=cursor, limit=limit, state=state))


def session(store: SessionStore, id: str) -> dict[str, Any] | None:
    """One session and its queued turns; ``None`` if Redis knows nothing of it."""
    found = read_session(store, id)
    return None if found is None else dataclasses.asdict(found)


def _short(value: Any) -> Any:
    """The same with numbers of four digits: more are not seen in a plot."""
    match value:
        case dict():
            return {name: _short(one) for name, one in value.items()}
        case float() if math.isfinite(value) and abs(value) < 1e6:
            return float(f"{value:.4g}")
    return value


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "entry": letter.entry,
        "at": letter.at.timestamp(),
        "session": letter.session,
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
    }
