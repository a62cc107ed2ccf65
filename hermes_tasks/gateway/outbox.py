"""One outbox: the turns of one gateway process that Redis may not have, in SQLite.

A row is a turn with its number. Only the process that made a file adds to it, and counts, so that
no number is given twice under one *incarnation*, the random name of that process. Each row also
names the number before it of the same session, while that one is still here, so that Redis can tell
a gap. Which sessions the rows are of is kept in memory as well (:mod:`.numbers`): an index in the
file, and SQLite's ``AUTOINCREMENT``, would make every append write three pages instead of one.

A row goes through two more stations. Rows are sent in order, so one number each tells how far:
*attempted*, it may have reached Redis; *accepted*, it has. An accepted row is kept for a while,
because Redis forgets its last second or two when it dies, and is no longer pending. Which Redis
process accepted them, and when, is written to the file: when another one answers, all that is kept
becomes pending again, in its old order (:meth:`Outbox.confirm`).

Two connections to the file: one writes, under a lock that is held for microseconds; the other reads
for the publisher and moves the write-ahead log into the database, which waits for the disk and must
therefore never stand in the way of an append. An outbox in memory has one connection for both.
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes_tasks.errors import OutboxError
from hermes_tasks.gateway.numbers import Numbers

CHECKPOINT_WRITES = 50
"""Rows written after which the write-ahead log is moved into the database, when nobody appends."""

CHECKPOINT_AT_LATEST = 1000
"""Rows written after which it is moved in any case; it has some 15 MB then."""

LOG_BYTES = 32 * 1024 * 1024
"""How long the write-ahead log may become, and what its file is cut to, had it to grow longer while
no checkpoint could be made. Cutting it makes an append wait."""

PAGE_BYTES = 4096
"""SQLite's own size of a page."""

using_sqlite = threading.RLock()
"""Held while any outbox calls SQLite other than to append.

SQLite has locks of its own for the whole process. A fork while another thread holds one would leave
it locked in the child for ever, so a fork takes this one first. Taken last of all our locks.
"""

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (
    number INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    previous INTEGER,
    body TEXT NOT NULL
);
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
INSERT INTO turns (number, session_key, turn_id, previous, body) VALUES (?, ?, ?, ?, ?)
"""

_REFUSE = """
INSERT OR REPLACE INTO refused (number, session_key, turn_id, body, reason)
SELECT number, session_key, turn_id, body, ? FROM turns WHERE number = ?
"""

_FORGET = """
DELETE FROM turns WHERE number = ? AND turn_id IN (SELECT value FROM json_each(?))
"""

# The oldest turn that was not tried yet: one that was may be in Redis already. Then the oldest that
# is not on its way just now.
_OLDEST = """
SELECT number, session_key FROM (
    SELECT * FROM (
        SELECT number, session_key FROM turns WHERE number > :attempted ORDER BY number LIMIT 1
    )
    UNION ALL
    SELECT * FROM (
        SELECT number, session_key FROM turns
        WHERE number > :accepted AND number NOT BETWEEN :first AND :last ORDER BY number LIMIT 1
    )
) LIMIT 1
"""

_EVERY = 2**63 - 1
"""Above every number."""


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
        server: run id of the Redis process that rows were last sent to, or ``None``.
        pending: rows to be sent.
        kept: rows that Redis has accepted, and might forget.
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
        self.server: str | None = None
        self.pending = self.kept = self.refused = self.dropped = 0
        self._limit = limit
        self._lock = threading.RLock()
        self._writes = 0
        self._checkpoints = 0
        self._truncated = True
        self._closed = False
        # Numbers up to which rows are what they are called.
        self._attempted = self._accepted = 0
        self._sending = (0, 0)
        # Batches that are kept, oldest first: when they were accepted, their last number, how many.
        self._batches: deque[tuple[float, int, int]] = deque()
        self._last = 0
        self._numbers = Numbers()
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
                number = self._last + 1
                previous = self._numbers.latest(session_key)
                self._db.execute(_APPEND, (number, session_key, turn_id, previous, body))
            except sqlite3.Error as error:
                raise self._broken("write", error) from error
            self._last = number
            self._numbers.add(session_key, number)
            self.pending += 1
            self._written()
            return number

    def rows(self, limit: int) -> list[Row]:
        """The oldest rows to be sent, in order.

        Raises:
            OutboxError: the file cannot be read.
        """
        try:
            with using_sqlite:
                rows = self._reader.execute(
                    "SELECT number, session_key, turn_id, previous, body FROM turns"
                    " WHERE number > ? ORDER BY number LIMIT ?",
                    (self._accepted, limit),
                ).fetchall()
        except sqlite3.Error as error:
            raise self._broken("read", error) from error
        attempted = self._attempted
        return [
            Row(number, session, turn, previous, body, number <= attempted)
            for number, session, turn, previous, body in rows
        ]

    def mark(self, rows: Sequence[Row]) -> list[Row]:
        """Rows, as :meth:`rows` gave them, are about to be sent.

        Nothing of this is written: of what a dead process leaves, all may have been sent.

        Returns:
            Those that are still there: since they were read, some may have been dropped.
        """
        with self._lock:
            first, last = self._sending = rows[0].number, rows[-1].number
            self._attempted = max(self._attempted, last)
            there = self._there(first, last)
            return [row for row in rows if there is None or row.number in there]

    def accept(self, rows: Sequence[Row]) -> None:
        """What was marked is on its way no longer; Redis has accepted ``rows`` of it, the oldest.

        Redis is the process of the latest :meth:`confirm`.
        """
        with self._lock:
            self._sending = (0, 0)
            if rows:
                now = time.monotonic()
                self._accepted = rows[-1].number
                self._batches.append((now, self._accepted, len(rows)))
                self.pending -= len(rows)
                self.kept += len(rows)
                self._note("accepted", f"{self._accepted} {now}")

    def refuse(self, row: Row, reason: str) -> None:
        """Keep the oldest row aside that can never be sent, so that the ones behind it go on."""
        with self._lock:
            self._write(_REFUSE, (reason, row.number))
            # On a full disk it stays where it is, and is refused by whoever finds it there.
            self._write("DELETE FROM turns WHERE number = ?", (row.number,))
            self._numbers.remove(row.session_key, row.number)
            self._accepted = row.number
            self.refused += 1
            self.pending -= 1

    def confirm(
        self, server: str, before: float, between: Callable[[], None] = lambda: None
    ) -> int:
        """A Redis process answers: what it accepted long ago is forgotten here.

        If it is not the one that accepted what is kept, that is to be sent again.

        Args:
            server: the run id of the process.
            before: what it accepted until then is safe; monotonic.
            between: called after each batch that is forgotten, while appends are free to go on.

        Returns:
            How many rows are to be sent again.
        """
        again = 0
        with self._lock:
            if server != self.server:
                again = self._recall()
                self.server = server
                self._note("server", server)
        while self._forget_oldest(before):
            between()
        return again

    def forget(self, session_key: str, turn_ids: Iterable[str]) -> None:
        """Keep no longer what Redis has given up: sent again it would come out of its order."""
        given_up = json.dumps(list(turn_ids))
        with self._lock:
            for number in self._numbers.up_to(session_key, self._accepted):
                if self._write(_FORGET, (number, given_up)):
                    self._numbers.remove(session_key, number)

    @property
    def kept_since(self) -> float | None:
        """When the oldest row that is kept was accepted, monotonic; ``None``: none is kept."""
        with self._lock:
            return self._batches[0][0] if self._batches else None

    def latest(self, session_key: str) -> int | None:
        """Number of the session's newest row still to be sent."""
        with self._lock:
            number = self._numbers.latest(session_key)
            return number if number is not None and number > self._accepted else None

    def count_up_to(self, session_key: str, number: int) -> int:
        """How many rows of the session up to ``number`` are still to be sent."""
        with self._lock:
            return 0 if self._closed else self._numbers.count(session_key, self._accepted, number)

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough was written since the last checkpoint."""
        return self._writes >= CHECKPOINT_WRITES

    @property
    def checkpoint_overdue(self) -> bool:
        """Whether so much was written that it cannot wait for a quiet moment."""
        return self._writes >= CHECKPOINT_AT_LATEST

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database, beside the appends that go on."""
        if self.path is not None and self._writes:
            moved = self._pragma("wal_checkpoint(PASSIVE)")
            with self._lock:
                # What came meanwhile keeps the log from beginning anew. When that has happened too
                # often, appends wait until it is moved as well.
                if any(frames * PAGE_BYTES > LOG_BYTES // 2 for _busy, frames, _moved in moved):
                    self._pragma("wal_checkpoint(PASSIVE)")
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
            self._closed = True
            self._disconnect()

    def before_fork(self) -> None:
        """Let no write be half done in the memory that the child will inherit."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let writes go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Keep what is inherited open until this process has ended, and never use it.

        Python closes what nobody refers to, and all that is left when it ends. SQLite would then
        move the log that it remembers into the file, and delete the one that is there, whoever
        writes to it: the parent, or another child that has adopted the file.
        """
        for connection in self._connections:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def _open(self, full_sync: bool) -> None:
        if self.path is None:
            self._db = self._reader = self._connect(":memory:")
        else:
            if not self.adopted:
                # Before SQLite does, which would give it the mode that the umask leaves.
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            # Not with SQLite's `unix-excl`, though it would spare each append six locks, a third of
            # its time: a forked child would believe that it has the file, too.
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
        self.refused = self._count("refused")
        accepted_at = 0.0
        if self.adopted:
            self.server = about.get("server")
            self._attempted = _EVERY
            last, _, at = about.get("accepted", "0 0").partition(" ")
            self._accepted = int(last)
            accepted_at = float(at)
        for number, session_key in self._db.execute(
            "SELECT number, session_key FROM turns ORDER BY number"
        ):
            self._numbers.add(session_key, number)
            self._last = number
            self.pending += number > self._accepted
            self.kept += number <= self._accepted
        if self.kept:
            # That clock is one for all processes. After the host was started again it tells less
            # than has gone by, or nothing.
            accepted_at = min(accepted_at, time.monotonic())
            self._batches.append((accepted_at, self._accepted, self.kept))

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

    def _forget_oldest(self, before: float) -> bool:
        """Forget the oldest batch that is kept, if it was accepted before; whether it was."""
        with self._lock:
            if not self._batches or self._batches[0][0] > before:
                return False
            _, last, count = self._batches.popleft()
            if self._write("DELETE FROM turns WHERE number <= ?", (last,)) is None:
                # A full disk. It is no loss: they are tried again, or sent twice and known.
                self._batches.appendleft((time.monotonic(), last, count))
                return False
            self._numbers.forget_up_to(last)
            self.kept -= count
            return True

    def _drop_oldest(self) -> None:
        first, last = self._sending
        found = self._db.execute(
            _OLDEST,
            {
                "attempted": self._attempted,
                "accepted": self._accepted,
                "first": first,
                "last": last,
            },
        )
        for number, session_key in found.fetchall():
            self._db.execute("DELETE FROM turns WHERE number = ?", (number,))
            self._numbers.remove(session_key, number)
            self.pending -= 1
            self.dropped += 1

    def _recall(self) -> int:
        """What is kept is pending again; how many rows that are."""
        try:
            again = self._count("turns WHERE number <= ?", self._accepted)
        except sqlite3.Error:
            again = self.kept  # whoever reads the rows next finds out what is wrong
        self.kept = 0
        self.pending += again
        self._accepted = 0
        self._batches.clear()
        self._note("accepted", "0 0")
        return again

    def _count(self, what: str, *arguments: int) -> int:
        ((found,),) = self._db.execute(f"SELECT count(*) FROM {what}", arguments)  # noqa: S608
        return int(found)

    def _there(self, first: int, last: int) -> set[int] | None:
        """Numbers of the rows that are there; ``None``: the disk does not say."""
        try:
            found = self._db.execute(
                "SELECT number FROM turns WHERE number BETWEEN ? AND ?", (first, last)
            )
            return {number for (number,) in found}
        except sqlite3.Error:
            return None

    def _note(self, name: str, value: int | str) -> None:
        self._write("REPLACE INTO about VALUES (?, ?)", (name, str(value)))

    def _write(self, statement: str, arguments: tuple[Any, ...]) -> int | None:
        """How many rows it changed; ``None``: the disk did not take it."""
        try:
            changed = self._db.execute(statement, arguments).rowcount
        except sqlite3.Error:
            return None
        self._written(changed)
        return changed

    def _start_log(self) -> None:
        # The first write after a checkpoint starts the log anew and waits for the disk
        # (SQLite syncs the new header). It must not be an append, and it must change something.
        self._checkpoints += 1
        self._note("checkpoints", self._checkpoints)
        self._writes = 0

    def _written(self, rows: int = 1) -> None:
        self._writes += max(1, rows)
        self._truncated = False

    def _pragma(self, text: str) -> list[tuple[int, ...]]:
        try:
            with using_sqlite:
                return self._reader.execute(f"PRAGMA {text}").fetchall()
        except sqlite3.Error:
            # A full disk, or somebody reads the file: the next one will do.
            return []

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
