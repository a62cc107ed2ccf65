"""JSON lines: one message a line, ``{"session", "peer", "content", "created_at"?}``.

A line is a turn of its own: nothing in the format says where an exchange ends, and so a line keeps
its identity when lines are added behind it or a broken line is mended. The worker batches turns, so
this costs no call. A turn id derives from the line itself and its place among the lines of its
session.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hermes_tasks.errors import InvalidTurn, SourceError
from hermes_tasks.replay.sources import Target, derive_turn_id
from hermes_tasks.scrub import scrub
from hermes_tasks.turns import Turn

_FIELDS = ("session", "peer", "content")


class JsonLines:
    """Reads JSON lines; see :class:`~hermes_tasks.replay.sources.Source`."""

    def __init__(self, path: Path, target: Target) -> None:
        self.left_out = 0
        self._path = path
        self._target = target

    def turns(self) -> Iterator[Turn]:
        places: Counter[str] = Counter()
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    message = self._parse(line, number)
                    place = places[message["session"]]
                    places[message["session"]] += 1
                    if not scrub(message["content"]).strip():
                        self.left_out += 1
                        continue
                    yield self._turn(message, place, number)
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror or error}") from error

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        # The messages name what is wrong, and quote none of it: it may be conversation. For the
        # same reason the cause, which holds the line, is not chained.
        try:
            # A byte order mark is no fault of the line's.
            message = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise self._wrong(number, f"not UTF-8 at byte {error.start + 1}") from None
        except json.JSONDecodeError as error:
            raise self._wrong(number, f"not JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError):
            # Nested without end, or a number without end.
            raise self._wrong(number, "not JSON that can be read") from None
        if not isinstance(message, dict):
            raise self._wrong(number, "not a JSON object")
        for field in _FIELDS:
            if field not in message:
                raise self._wrong(number, f"has no {field!r}")
            if not isinstance(message[field], str):
                raise self._wrong(number, f"{field!r} is not a string")
        return message

    def _turn(self, message: dict[str, Any], place: int, number: int) -> Turn:
        session, peer, content = (message[field] for field in _FIELDS)
        created_at = message.get("created_at")
        try:
            return Turn.create(
                self._target.workspace,
                session,
                [{"peer": peer, "content": scrub(content), "created_at": created_at}],
                turn_id=derive_turn_id("jsonl", session, place, peer, content, created_at),
                backend=self._target.backend,
                ask=True,
            )
        except InvalidTurn as error:
            raise self._wrong(number, str(error).removeprefix("messages[0].")) from error

    def _wrong(self, number: int, what: str) -> SourceError:
        return SourceError(f"{self._path}, line {number}: {what}")
