"""One outbox: the turns of one gateway process that Redis has not accepted yet, in SQLite.

A row is a turn with its number. Numbers come from ``AUTOINCREMENT``, so they are never given twice
under one *incarnation*, the random name of the process that wrote them. Each row also names the
number before it of the same session, while that one is still here, so that Redis can tell a gap.

Two connections to the file: one writes, under a lock that is held for microseconds; the other reads
for the publisher and moves the write-ahead log into the database, which waits for the disk and must
therefore never stand in the way of an append. An outbox in memory has one connection for both.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes_tasks.errors import OutboxError

CHECKPOINT_WRITES = 50
"""Writes after which the write-ahead log is moved into the database."""

LOG_BYTES = 4 * 1024 * 1024
"""What the write-ahead log's file is cut to, had it to grow while no checkpoint could be made."""

using_sqlite = threading.RLock()
"""Held while any outbox calls SQLite other than to append.

SQLite has locks of its own for the whole process. A fork while another thread holds one would leave
it locked in the child for ever, so a fork takes this one first. Taken last of all our locks.
"""

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session_key TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    previous INTEGER,
    body TEXT NOT NULL,
    attempted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS turns_of_session ON turns (session_key, number);
CREATE TABLE IF NOT EXISTS refused (
    number INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    body TEXT NOT NULL,
    reason TEXT NOT NULL
);
COMMIT;
"""

_APPEND = """
INSERT INTO turns (session_key, turn_id, previous, body)
VALUES (:session, :turn, (SELECT max(number) FROM turns WHERE session_key = :session), :body)
"""

_REFUSE = """
INSERT OR REPLACE INTO refused (number, session_key, turn_id, body, reason)
SELECT number, session_key, turn_id, body, ? FROM turns WHERE number = ?
"""

# The oldest turn that was not tried yet: one that was may be in Redis already.
_OLDEST = "SELECT number FROM turns WHERE number != ? ORDER BY attempted, number LIMIT 1"


class CorruptOutbox(OutboxError):
    """The file is no SQLite database, or a damaged one: no later try will read it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A turn in an outbox.

    Attributes:
        number: its place in the outbox.
        session_key: ``backend:workspace:session``.
        turn_id: the turn's id, and its task's.
        previous: number of the turn before it of the same session, if that was still here.
        body: the turn as JSON text.
        attempted: whether it may have reached Redis before.
    """

    number: int
    session_key: str
    turn_id: str
    previous: int | None
    body: str = field(repr=False)
    attempted: bool


class Outbox:
    """The rows of one incarnation. Safe to use from several threads.

    Args:
        path: the SQLite file, created with mode 0600 if it is not there; ``None``: in memory.
        incarnation: name of the process whose numbers these are.
        destination: the Redis that the turns are meant for, without password.
        adopted: the file is another process's, now dead: whatever is in it may have been sent.
        limit: rows kept; beyond it the oldest is dropped and counted.
        full_sync: wait for the disk at every append (``synchronous=FULL``), which survives a power
            failure and takes about 200 µs instead of 10.

    Attributes:
        pending: rows to be sent.
        dropped: rows dropped because there were too many.
        refused: rows kept aside because they can never be sent.

    Raises:
        OutboxError: the file cannot be opened, or is not an outbox.
    """

    def __init__(
        self,
        path: Path | None,
        incarnation: str,
        destination: str,
        *,
        adopted: bool = False,
        limit: int = 100_000,
        full_sync: bool = False,
    ) -> None:
        self.path = path
        self.incarnation = incarnation
        self.destination = destination
        self.adopted = adopted
        self.pending = self.refused = self.dropped = 0
        self._limit = limit
        self._lock = threading.RLock()
        self._writes = 0
        self._checkpoints = 0
        self._truncated = True
        self._sending = 0
        self._closed = False
        # Accepted by Redis, but the disk was too full to take them out; never sent again.
        self._settled: set[int] = set()
        self._connections: list[sqlite3.Connection] = []
        try:
            with using_sqlite:
                self._open(full_sync)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self._broken("open", error) from error

    def append(self, session_key: str, turn_id: str, body: str) -> int:
        """Add a turn; returns its number. Takes microseconds, whatever the network does.

        Raises:
            OutboxError: the file cannot be written.
        """
        with self._lock:
            try:
                if self.pending >= self._limit:
                    self._drop_oldest()
                number = self._db.execute(
                    _APPEND, {"session": session_key, "turn": turn_id, "body": body}
                ).lastrowid
            except sqlite3.Error as error:
                raise self._broken("write", error) from error
            self.pending += 1
            self._written()
            return int(number or 0)

    def rows(self, limit: int) -> list[Row]:
        """The oldest rows, in order.

        Raises:
            OutboxError: the file cannot be read.
        """
        found = []
        try:
            with using_sqlite:
                # With rows that could not be taken out, look behind as many.
                rows = self._reader.execute(
                    "SELECT number, session_key, turn_id, previous, body, attempted FROM turns"
                    " ORDER BY number LIMIT ?",
                    (limit + len(self._settled),),
                ).fetchall()
            for number, session, turn, previous, body, attempted in rows:
                if number not in self._settled:
                    may_be_sent = self.adopted or bool(attempted)
                    found.append(Row(number, session, turn, previous, body, may_be_sent))
        except sqlite3.Error as error:
            raise self._broken("read", error) from error
        return found[:limit]

    def mark(self, row: Row) -> bool:
        """Note that a row is about to be sent, before its first byte leaves.

        On a full disk the note is lost and the turn goes out all the same: sending is what makes
        room, and Redis recognises a turn it has.

        Returns:
            Whether the row is still there: since it was read it may have been dropped.
        """
        with self._lock:
            self._sending = row.number
            marked = self._write("UPDATE turns SET attempted = 1 WHERE number = ?", (row.number,))
            return marked != 0

    def remove(self, row: Row) -> None:
        """Take out a row that Redis has accepted."""
        with self._lock:
            if row.number not in self._settled:
                self._settled.add(row.number)
                self.pending -= 1
            self._take_out_settled()

    def refuse(self, row: Row, reason: str) -> None:
        """Keep a row aside that can never be sent, so that the ones behind it go on."""
        with self._lock:
            self._write(_REFUSE, (reason, row.number))
            self.refused += 1
            self.remove(row)

    def earliest(self, session_key: str) -> int | None:
        """Number of the session's oldest row still to be sent."""
        return self._of_session("min(number)", session_key)

    def latest(self, session_key: str) -> int | None:
        """Number of the session's newest row still to be sent."""
        return self._of_session("max(number)", session_key)

    def count_up_to(self, session_key: str, number: int) -> int:
        """How many rows of the session up to ``number`` are still to be sent."""
        return self._of_session("count(*)", session_key, number) or 0

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough was written since the last checkpoint."""
        return self._writes >= CHECKPOINT_WRITES

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database, beside the appends that go on."""
        if self.path is not None and self._writes:
            self._pragma("wal_checkpoint(PASSIVE)")
            with self._lock:
                self._start_log()

    def truncate(self) -> None:
        """Empty the write-ahead log: no turn stays readable in it, and no space is held."""
        if self.path is None or self._truncated:
            return
        # The disk is waited for here, so that little is left to copy under the lock.
        self._pragma("wal_checkpoint(PASSIVE)")
        with self._lock:
            self._pragma("wal_checkpoint(TRUNCATE)")
            self._start_log()
            self._truncated = True

    def close(self) -> None:
        """Close the file; SQLite empties the write-ahead log when it does. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._take_out_settled()
            self._closed = True
            self._disconnect()

    def before_fork(self) -> None:
        """Let no write be half done in the memory that the child will inherit."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let writes go on."""
        self._lock.release()

    def _open(self, full_sync: bool) -> None:
        if self.path is None:
            self._db = self._reader = self._connect(":memory:")
        else:
            if not self.adopted:
                # Before SQLite does, which would give it the mode that the umask leaves.
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._db, self._reader = self._connect(self.path), self._connect(self.path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
            self._db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            for connection in (self._db, self._reader):
                connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.executescript(_SCHEMA)
        if not self.adopted:
            self._db.executemany(
                "INSERT INTO about VALUES (?, ?)",
                [("incarnation", self.incarnation), ("destination", self.destination)],
            )
        about = dict(self._db.execute("SELECT name, value FROM about"))
        self.incarnation = about.get("incarnation", self.incarnation)
        self.destination = about.get("destination", self.destination)
        (self.pending,) = self._db.execute("SELECT count(*) FROM turns").fetchone()
        (self.refused,) = self._db.execute("SELECT count(*) FROM refused").fetchone()

    def _connect(self, database: str | Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            database,
            # No wait for locks: only an operator's shell could hold one, and a conversation waits.
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connections.append(connection)
        return connection

    def _disconnect(self) -> None:
        with using_sqlite:
            for connection in self._connections:
                connection.close()

    def _drop_oldest(self) -> None:
        for (number,) in self._db.execute(_OLDEST, (self._sending,)).fetchall():
            if self._db.execute("DELETE FROM turns WHERE number = ?", (number,)).rowcount:
                self.pending -= 1
                self.dropped += 1

    def _take_out_settled(self) -> None:
        for number in tuple(self._settled):
            if self._write("DELETE FROM turns WHERE number = ?", (number,)) is None:
                return
            self._settled.discard(number)

    def _write(self, statement: str, arguments: tuple[Any, ...]) -> int | None:
        """How many rows it changed; ``None``: the disk did not take it."""
        try:
            changed = self._db.execute(statement, arguments).rowcount
        except sqlite3.Error:
            return None
        self._written()
        return changed

    def _start_log(self) -> None:
        # The first write after a checkpoint starts the log anew and waits for the disk
        # (SQLite syncs the new header). It must not be an append, and it must change something.
        self._checkpoints += 1
        self._write("REPLACE INTO about VALUES ('checkpoints', ?)", (str(self._checkpoints),))
        self._writes = 0

    def _written(self) -> None:
        self._writes += 1
        self._truncated = False

    def _of_session(self, what: str, session_key: str, last: int = 2**63 - 1) -> int | None:
        with self._lock:
            if self._closed:
                return None
            try:
                ((value,),) = self._db.execute(
                    f"SELECT {what} FROM turns WHERE session_key = ? AND number <= ?"  # noqa: S608
                    " AND number NOT IN (SELECT value FROM json_each(?))",
                    (session_key, last, json.dumps(list(self._settled))),
                )
            except sqlite3.Error as error:
                raise self._broken("read", error) from error
            return None if value is None else int(value)

    def _pragma(self, text: str) -> None:
        try:
            with using_sqlite:
                self._reader.execute(f"PRAGMA {text}").fetchall()
        except sqlite3.Error:
            # A full disk, or somebody reads the file: the next one will do.
            pass

    def _broken(self, action: str, error: Exception) -> OutboxError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # An operational error is about the disk, locks or descriptors, not about the content.
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        what = f"cannot {action} the outbox {self.path or 'in memory'}: {reason or error}"
        if damaged:
            return CorruptOutbox(f"{what}; `sqlite3 FILE .recover` may save what is in it")
        return OutboxError(
            f"{what}; make its directory writable with free space, or set HERMES_TASKS_OUTBOX_DIR "
            "to another one"
        )
