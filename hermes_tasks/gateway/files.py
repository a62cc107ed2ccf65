"""The files of outboxes in a directory: names, owners, and what becomes of them.

An outbox is ``outbox-<generation>-<incarnation>.db``. Beside it lies a lock file, locked by its
process for as long as that lives, so that another can tell a dead one's outbox. The generation
counts the outboxes of a directory: several dead ones are taken in the order in which they were
made, and no clock is asked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"outbox-(\d+)-([0-9a-f]{16})\.db")


def found_in(directory: Path) -> list[Path]:
    """The outboxes in a directory, oldest generation first; none if it cannot be read."""
    try:
        return sorted(_all(directory), key=_generation_of)
    except OSError:
        return []


def new_path(directory: Path, incarnation: str) -> Path:
    """Where a new outbox goes: its generation is above every other, since its turns are newer.

    Raises:
        OSError: the directory cannot be read.
    """
    generation = max(map(_generation_of, _all(directory)), default=0) + 1
    return directory / f"outbox-{generation:08d}-{incarnation}.db"


def incarnation_of(path: Path) -> str:
    """Whose outbox it is by its name."""
    return path.stem.rpartition("-")[2]


def lock(path: Path) -> int | None:
    """Lock an outbox for this process, until the descriptor returned is closed.

    It is not the database itself that is locked: closing a second descriptor of that would drop
    SQLite's own locks.

    Returns:
        The descriptor, or ``None`` when another process holds the lock.

    Raises:
        OSError: the lock file cannot be opened.
    """
    lock_path = path.with_suffix(".lock")
    descriptor = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have deleted both files since we opened this one.
        if os.fstat(descriptor).st_ino == lock_path.stat().st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def inode_of(path: Path) -> tuple[int, int] | None:
    """What SQLite knows a file by: its device and inode; ``None``: there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def renew(path: Path) -> None:
    """Put a copy in the place of a database that is locked by us: the same file, another inode.

    What SQLite remembers of a file, its locks and the index of its log, is the process's, and a
    forked child has it as it was at the fork. Of the copy it knows nothing.

    Raises:
        OSError: it cannot be copied; the file is as it was.
    """
    copy = path.with_suffix(".db-copy")
    descriptor = os.open(copy, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with path.open("rb") as old, os.fdopen(descriptor, "wb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(descriptor)
    copy.replace(path)


def delete(path: Path) -> None:
    """Delete an outbox that is locked by us, the lock file last."""
    for suffix in (".db-copy", ".db-wal", ".db-shm", ".db", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> Path:
    """Rename an outbox so that no process adopts it; its new name begins with ``why``."""
    kept = path.with_name(f"{why}-{path.name}")
    for suffix in (".db-wal", ".db"):
        source = path.with_suffix(suffix)
        if source.exists():
            source.rename(kept.with_suffix(suffix))
    for suffix in (".db-copy", ".db-shm", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    return kept


def _all(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]


def _generation_of(path: Path) -> int:
    return int(path.stem.split("-")[1])
