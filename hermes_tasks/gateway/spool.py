"""The outboxes of one gateway, in the order in which their rows are published.

A gateway appends to an outbox of its own. The outboxes of processes that died are *adopted*: their
rows go first, under the incarnation and the numbers they have (:mod:`.files` tells which those are
and in which order).

What Redis has accepted is kept for :data:`KEEP_SECONDS`, and until the same Redis process has
answered after that; if another one answers, it is sent again, before all that is newer. A gateway
that ends waits for none of this: its file stays, and the next gateway looks which Redis process
accepted what is in it, and when. If that one still answers nothing is sent again, however long ago
it was. No clock is asked but the monotonic one of the host.

When the file cannot be written, turns go on into an outbox in memory, with one warning, and after a
while a new file is tried. The order of turns is kept across all of them: rows of an outbox are
published when those before it are empty.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hermes_tasks.errors import Closed, OutboxError
from hermes_tasks.gateway import files
from hermes_tasks.gateway.outbox import CorruptOutbox, Outbox

logger = logging.getLogger(__name__)

RETRY_FILE_SECONDS = 30.0
"""How long turns are kept in memory after a write to the file failed, until a file is tried."""

KEEP_SECONDS = 5.0
"""How long turns that Redis has accepted are kept.

With ``appendfsync everysec`` a Redis that dies forgets its last second, or two when the disk is
busy: it then delays a write for as long before it waits for the disk.
"""

ADOPT_AT_ONCE = 32
"""Dead processes' outboxes held open at a time: each takes six file descriptors."""

#: The files that were open in the parent when this process was forked, see :func:`files.renew`.
_inherited: set[tuple[int, int]] = set()


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest row of a session in one outbox, when somebody asked."""

    outbox: Outbox
    session_key: str
    number: int

    @property
    def waiting(self) -> int:
        """How many rows of the session up to this one are still to be sent."""
        return self.outbox.count_up_to(self.session_key, self.number)


class Spool:
    """The turns of one gateway that Redis has not accepted yet, or might forget.

    Args:
        directory: where the files are; created with mode 0700.
        destination: the Redis that the turns are meant for, without password. Files that were meant
            for another are left alone.
        limit: rows kept in an outbox; beyond it the oldest is dropped and counted.
        full_sync: wait for the disk at every append.

    Attributes:
        changed: notified when rows were sent, and when the spool closes.
        recalls: how often turns that Redis had accepted were to be sent again.
    """

    def __init__(
        self, directory: Path, destination: str, *, limit: int = 100_000, full_sync: bool = False
    ) -> None:
        self.directory = directory
        self.destination = destination
        self._limit = limit
        self._full_sync = full_sync
        self._warned: set[str] = set()
        self._start()
        self.adopt()
        self._open_own()

    def _start(self) -> None:
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self._outboxes: list[Outbox] = []
        self._locks: dict[Outbox, int] = {}
        self._own: Outbox | None = None
        self._failed_at = 0.0
        self.recalls = 0
        self._more_to_adopt = False
        self._counted_drops = 0
        self._counted_refusals = 0
        self._closed = False

    def append(self, session_key: str, turn_id: str, body: str) -> None:
        """Keep a turn until Redis accepts it. Waits for no network and, but for the first turn
        after a fork, for no disk.

        Raises:
            Closed: the spool was closed, or is closing.
        """
        with self._lock:
            if self._closed:
                raise Closed("this gateway is closed: turns given to it now would not be sent")
            own = self._own
            if own is None or (own.path is None and self._file_is_worth_a_try()):
                own = self._open_own()
            try:
                own.append(session_key, turn_id, body)
            except OutboxError as error:
                self._fall_back(error).append(session_key, turn_id, body)

    def head(self) -> Outbox | None:
        """The outbox whose rows are published next: the first that has some.

        ``None``: there is nothing to publish, or nothing before Redis cannot forget any more what
        the outboxes of dead processes had, and others of them can be adopted.
        """
        while True:
            with self._lock:
                empty = [
                    outbox
                    for outbox in self._outboxes
                    if outbox is not self._own and not outbox.pending and not outbox.kept
                ]
                for outbox in empty:
                    self._outboxes.remove(outbox)
                first = next((outbox for outbox in self._outboxes if outbox.pending), None)
                settled = not self._more_to_adopt or (first is not None and first.adopted)
                room = sum(outbox.adopted for outbox in self._outboxes) < ADOPT_AT_ONCE
            # Not under the lock, which appends need: closing a file waits for the disk.
            for outbox in empty:
                self._dispose(outbox)
            if settled:
                return first
            if not room:
                return None
            self.adopt()

    def adopt(self) -> None:
        """Take over what dead processes left, oldest first, before this process's own rows."""
        with self._lock:
            held = {outbox.path for outbox in self._outboxes}
            room = ADOPT_AT_ONCE - sum(outbox.adopted for outbox in self._outboxes)
            self._more_to_adopt = False
            if self._closed:
                return
        adopted: list[Outbox] = []
        for path in files.found_in(self.directory):
            if path in held or path.name in self._warned:
                continue
            if len(adopted) >= room:
                self._more_to_adopt = True
                break
            outbox = self._adopt(path)
            if outbox is not None:
                adopted.append(outbox)
        with self._lock:
            still_adopted = sum(outbox.adopted for outbox in self._outboxes)
            self._outboxes[still_adopted:still_adopted] = adopted

    def abandon(self, outbox: Outbox, error: OutboxError) -> None:
        """Go on without an outbox that cannot be read. Its file is kept; unless it is damaged, it
        is adopted again when this process, or another, next looks for outboxes.
        """
        with self._lock:
            if outbox in self._outboxes:
                self._outboxes.remove(outbox)
            if outbox is self._own:
                self._own = None
        outbox.close()
        kept = outbox.path
        if kept is not None and isinstance(error, CorruptOutbox):
            kept = files.set_aside(kept, "corrupt")
            self._counted_drops += outbox.pending
        logger.warning("%s; it is kept as %s", error, kept)
        self._unlock(outbox)

    def confirm(self, server: str, at: float, between: Callable[[], None] = lambda: None) -> None:
        """A Redis process answers: forget what it cannot lose any more, recall what it never had.

        Args:
            server: its run id.
            at: monotonic time of its latest answer.
            between: called after each piece of work, while appends are free to go on.
        """
        with self._lock:
            outboxes = list(self._outboxes)
        again = sum(outbox.confirm(server, at - KEEP_SECONDS, between) for outbox in outboxes)
        if again:
            with self.changed:
                self.recalls += 1
                self.changed.notify_all()
            logger.info("another Redis process answers: %d turns are sent again to be sure", again)

    def given_up(self, session_key: str, turn_ids: Iterable[str]) -> None:
        """Redis gave turns of a session up for good."""
        for outbox in list(self._outboxes):
            outbox.forget(session_key, turn_ids)

    @property
    def keep_until(self) -> float | None:
        """When the oldest turn that is kept may be forgotten, monotonic; ``None``: none is kept."""
        with self._lock:
            kept_since = [outbox.kept_since for outbox in self._outboxes]
        oldest = min((since for since in kept_since if since is not None), default=None)
        return None if oldest is None else oldest + KEEP_SECONDS

    def doubts(self, server: str | None) -> bool:
        """Whether another Redis process than this one has accepted turns that are still kept."""
        with self._lock:
            return any(outbox.kept and outbox.server != server for outbox in self._outboxes)

    def sent(self) -> None:
        """Wake whoever waits for rows to be sent."""
        with self.changed:
            self.changed.notify_all()

    def marks(self, session_key: str) -> list[Mark]:
        """The newest row of the session in each outbox that has one."""
        with self._lock:
            newest = [(outbox, outbox.latest(session_key)) for outbox in self._outboxes]
            return [
                Mark(outbox, session_key, number) for outbox, number in newest if number is not None
            ]

    @property
    def pending(self) -> int:
        """Turns that Redis has not accepted yet."""
        with self._lock:
            return sum(outbox.pending for outbox in self._outboxes)

    @property
    def incarnations(self) -> list[str]:
        """Names of the outboxes: first the one that is appended to, or ``""``; those adopted."""
        with self._lock:
            own = self._own.incarnation if self._own is not None else ""
            return [own, *(outbox.incarnation for outbox in self._outboxes if outbox.adopted)]

    @property
    def dropped(self) -> int:
        """Turns dropped because there were too many, or their outbox was damaged."""
        with self._lock:
            return self._counted_drops + sum(outbox.dropped for outbox in self._outboxes)

    @property
    def refused(self) -> int:
        """Turns kept aside because they can never be sent."""
        with self._lock:
            return self._counted_refusals + sum(outbox.refused for outbox in self._outboxes)

    @property
    def in_memory(self) -> int:
        """Turns that would be lost with this process."""
        with self._lock:
            return sum(outbox.pending for outbox in self._outboxes if outbox.path is None)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the outbox appended to should have its write-ahead log moved."""
        own = self._own
        return own is not None and own.checkpoint_due

    @property
    def checkpoint_overdue(self) -> bool:
        """Whether that cannot wait for a moment in which nobody appends."""
        own = self._own
        return own is not None and own.checkpoint_overdue

    def checkpoint(self, *, truncate: bool = False) -> None:
        """Move write-ahead logs into their databases, and empty them if told to."""
        for outbox in list(self._outboxes):
            if truncate:
                outbox.truncate()
            elif outbox.checkpoint_due:
                outbox.checkpoint()

    def stop_appends(self) -> None:
        """Take no more turns."""
        with self.changed:
            self._closed = True

    def close(self) -> None:
        """Close every outbox. Files that still hold turns stay for a later process, also if Redis
        has accepted them just now. Idempotent.
        """
        with self.changed:
            self._closed = True
            outboxes, self._outboxes, self._own = self._outboxes, [], None
            self.changed.notify_all()
        for outbox in outboxes:
            self._dispose(outbox)

    def before_fork(self) -> None:
        """Let nothing be half done in what the child inherits."""
        self._lock.acquire()
        for outbox in self._outboxes:
            outbox.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        for outbox in self._outboxes:
            outbox.after_fork_in_parent()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the parent's outboxes to it; open one of our own when a turn comes."""
        closed = self._closed
        for lock in self._locks.values():
            # Closing the descriptor does not unlock: the parent still has it open.
            os.close(lock)
        for outbox in self._outboxes:
            outbox.after_fork_in_child()
            if outbox.path is not None and (inode := files.inode_of(outbox.path)):
                _inherited.add(inode)
        self._start()
        self._closed = closed

    def _open_own(self) -> Outbox:
        """A new file to append to, or memory if there can be none."""
        try:
            outbox = self._create()
        except OutboxError as error:
            return self._fall_back(error)
        except OSError as error:
            return self._fall_back(
                OutboxError(
                    f"cannot use the outbox directory {self.directory}: {error.strerror or error}; "
                    "make it writable, or set HERMES_TASKS_OUTBOX_DIR to another one"
                )
            )
        self._failed_at = 0.0
        return self._append_to(outbox)

    def _create(self) -> Outbox:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        incarnation = secrets.token_hex(8)
        path = files.new_path(self.directory, incarnation)
        lock = files.lock(path)
        if lock is None:
            raise OutboxError(f"cannot lock the outbox {path}: another process holds it")
        try:
            outbox = Outbox(
                path,
                incarnation,
                self.destination,
                limit=self._limit,
                full_sync=self._full_sync,
            )
        except OutboxError:
            files.delete(path)
            os.close(lock)
            raise
        self._locks[outbox] = lock
        return outbox

    def _append_to(self, outbox: Outbox) -> Outbox:
        self._outboxes.append(outbox)
        self._own = outbox
        return outbox

    def _fall_back(self, error: OutboxError) -> Outbox:
        """Memory instead of the file, said once."""
        if "memory" not in self._warned:
            self._warned.add("memory")
            logger.warning("%s; turns are kept in memory until they are sent", error)
        self._failed_at = time.monotonic()
        own = self._own
        if own is not None and own.path is None:
            return own
        memory = Outbox(None, secrets.token_hex(8), self.destination, limit=self._limit)
        return self._append_to(memory)

    def _file_is_worth_a_try(self) -> bool:
        return time.monotonic() >= self._failed_at + RETRY_FILE_SECONDS

    def _adopt(self, path: Path) -> Outbox | None:
        """The outbox of a dead process, if it is one and holds turns for our Redis."""
        try:
            lock = files.lock(path)
        except OSError:
            return None
        if lock is None:
            return None
        try:
            if files.inode_of(path) in _inherited:
                files.renew(path)
            outbox = Outbox(
                path, files.incarnation_of(path), self.destination, adopted=True, limit=self._limit
            )
        except CorruptOutbox as error:
            kept = files.set_aside(path, "corrupt")
            os.close(lock)
            logger.warning("%s; it is kept as %s", error, kept)
            return None
        except (OutboxError, OSError) as error:
            # It may be readable the next time.
            os.close(lock)
            logger.warning("%s", error)
            return None
        if outbox.destination != self.destination:
            self._warned.add(path.name)
            if outbox.pending:
                logger.warning(
                    "the outbox %s holds %d turns for %s: it is left to a gateway of that broker",
                    path,
                    outbox.pending,
                    outbox.destination,
                )
            outbox.close()
            os.close(lock)
            return None
        self._locks[outbox] = lock
        if not outbox.pending and not outbox.kept:
            self._dispose(outbox)
            return None
        if outbox.pending:
            logger.info("sending %d turns that an earlier process left", outbox.pending)
        return outbox

    def _dispose(self, outbox: Outbox) -> None:
        """Close an outbox, and delete its file when nothing is left in it."""
        with self._lock:
            self._counted_drops += outbox.dropped
            self._counted_refusals += outbox.refused
        outbox.close()
        if outbox.path is not None and not outbox.pending and not outbox.kept:
            if outbox.refused:
                kept = files.set_aside(outbox.path, "refused")
                logger.warning("%d turns could not be sent: see %s", outbox.refused, kept)
            else:
                files.delete(outbox.path)
        self._unlock(outbox)

    def _unlock(self, outbox: Outbox) -> None:
        # Last, so that nobody adopts a file that is being deleted.
        lock = self._locks.pop(outbox, None)
        if lock is not None:
            os.close(lock)
