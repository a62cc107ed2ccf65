"""A Hermes ``state.db``: the host's own record of its sessions.

An exchange (what the user said up to the answers that follow) is one turn. Its id derives from the
session and the *first* message of the exchange, so that an exchange that was replayed before its
answer came keeps its id: the writer then finds the parts that are stored and adds the rest.

The database belongs to a Hermes that may be running: it is opened read-only, and nothing is locked
for longer than it takes to read one session.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes_tasks.errors import InvalidTurn, SourceError
from hermes_tasks.replay.sources import Target, derive_turn_id
from hermes_tasks.scrub import scrub
from hermes_tasks.turns import Turn

_BUSY_SECONDS = 10.0

_PARTS_PREFIX = "\x00json:"
"""What Hermes puts before content that is a list of parts (text and images)."""


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    role: str
    text: str
    timestamp: float


class StateDb:
    """Reads a ``state.db``; see :class:`~hermes_tasks.replay.sources.Source`."""

    def __init__(self, path: Path, target: Target) -> None:
        self.left_out = 0
        self._path = path
        self._target = target

    def turns(self) -> Iterator[Turn]:
        try:
            with closing(self._connect()) as database:
                self._check(database)
                for session, user in self._sessions(database):
                    for exchange in _exchanges(self._messages(database, session)):
                        yield self._turn(session, user, exchange)
        except (sqlite3.Error, OSError) as error:
            raise SourceError(
                f"{self._path} cannot be read as a Hermes state.db: {error}"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._path.resolve().as_uri()}?mode=ro"
        database = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
        # A text that is no UTF-8 would end the replay with an error that quotes it.
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        return database

    def _check(self, database: sqlite3.Connection) -> None:
        for table, columns in (
            ("sessions", {"id", "started_at"}),
            ("messages", {"id", "session_id", "role", "content", "timestamp"}),
        ):
            missing = columns - _columns(database, table)
            if missing == columns:
                raise SourceError(f"{self._path} is not a Hermes state.db: it has no table {table}")
            if missing:
                raise SourceError(
                    f"{self._path}: table {table} has no column {', '.join(sorted(missing))}; "
                    "this version of Hermes is not known"
                )

    def _sessions(self, database: sqlite3.Connection) -> list[tuple[str, str]]:
        """Session ids, oldest first, each with the peer of its user."""
        user = "user_id" if "user_id" in _columns(database, "sessions") else "NULL"
        rows = database.execute(f"SELECT id, {user} FROM sessions ORDER BY started_at, id")  # noqa: S608
        return [(str(id), str(user or self._target.user)) for id, user in rows]

    def _messages(self, database: sqlite3.Connection, session: str) -> list[_Row]:
        """What is to be remembered of a session, in the order it was said."""
        known = _columns(database, "messages")
        # Columns that older versions of Hermes did not have, where nothing was rewound yet.
        active = "active" if "active" in known else "1"
        compacted = "compacted" if "compacted" in known else "0"
        rows = database.execute(
            f"SELECT id, role, content, timestamp, {active}, {compacted} FROM messages "  # noqa: S608
            "WHERE session_id = ? ORDER BY id",
            (session,),
        ).fetchall()
        kept = [
            _Row(id, role, text, timestamp)
            for id, role, content, timestamp, is_active, is_compacted in rows
            if role in ("user", "assistant")
            and is_active
            and not is_compacted
            and (text := scrub(_text(content))).strip()
        ]
        self.left_out += len(rows) - len(kept)
        return kept

    def _turn(self, session: str, user: str, exchange: list[_Row]) -> Turn:
        first = exchange[0]
        peers = {"user": user, "assistant": self._target.assistant}
        try:
            return Turn.create(
                self._target.workspace,
                session,
                [
                    {"peer": peers[row.role], "content": row.text, "created_at": row.timestamp}
                    for row in exchange
                ],
                # The time keeps apart the rows of two databases whose sessions have one name.
                turn_id=derive_turn_id("state.db", session, first.id, first.timestamp),
                backend=self._target.backend,
                ask=True,
            )
        except InvalidTurn as error:
            raise SourceError(f"{self._path}, message {first.id}: {error}") from error


def _exchanges(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Cut a session where the user speaks after the assistant."""
    exchange: list[_Row] = []
    for row in rows:
        if exchange and row.role == "user" and exchange[-1].role == "assistant":
            yield exchange
            exchange = []
        exchange.append(row)
    if exchange:
        yield exchange


def _text(content: Any) -> str:
    """The text of a message; of a list of parts, the text parts."""
    if not isinstance(content, str):
        # Bytes and numbers are what a plug-in left there; nobody said them.
        return ""
    if not content.startswith(_PARTS_PREFIX):
        return content
    try:
        parts = json.loads(content.removeprefix(_PARTS_PREFIX))
    except ValueError:
        return content
    texts = [
        part["text"]
        for part in (parts if isinstance(parts, list) else [parts])
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "\n".join(texts)


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
