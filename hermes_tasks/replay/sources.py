"""What ``replay`` reads: any file that holds conversations, as a stream of turns.

Turn ids derive from what was said, never from where the file lies: replaying a copy, or the same
file after it grew, writes nothing twice. How, is told by each source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hermes_tasks.errors import SourceError
from hermes_tasks.turns import Turn

_SQLITE_MAGIC = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the turns of a source go, as far as the source does not say.

    Attributes:
        workspace: Honcho workspace.
        backend: name of the Honcho service.
        user: peer of a Hermes user whose session does not name one.
        assistant: peer of the assistant in a Hermes ``state.db``.
    """

    workspace: str
    backend: str = "default"
    user: str = "user"
    assistant: str = "hermes"


class Source(Protocol):
    """A file of conversations.

    Attributes:
        left_out: messages read so far that are not to be remembered: tools, system, blank,
            rewound or compacted ones.
    """

    left_out: int

    def turns(self) -> Iterator[Turn]:
        """The turns, each session's in order. Every turn has ``ask`` set.

        Raises:
            SourceError: the file cannot be read, or not any further; names file and line.
        """
        ...


def open_source(path: Path, target: Target) -> Source:
    """Recognise a file by its content: a Hermes ``state.db`` or JSON lines.

    Raises:
        SourceError: there is no such file, or it cannot be opened, or it is neither.
    """
    from hermes_tasks.replay.jsonl import JsonLines
    from hermes_tasks.replay.state_db import StateDb

    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    if head == _SQLITE_MAGIC:
        return StateDb(path, target)
    if path.suffix in (".db", ".sqlite", ".sqlite3") or b"\x00" in head:
        raise SourceError(f"{path} is not a Hermes state.db: it is no SQLite database")
    return JsonLines(path, target)


def derive_turn_id(*identity: str | int | float | None) -> str:
    """A turn id that is the same whenever the same thing is replayed."""
    digest = hashlib.sha256()
    for part in identity:
        # Lengths keep ("a", "bc") and ("ab", "c") apart; `surrogatepass` because keys may hold
        # lone surrogates.
        data = repr(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return f"replay-{digest.hexdigest()[:40]}"
