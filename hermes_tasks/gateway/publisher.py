"""The publisher: one thread that carries rows from the outboxes to Redis, in order."""

from __future__ import annotations

import logging
import random
import threading
import time

from hermes_tasks.errors import BrokerUnavailable, OutboxError
from hermes_tasks.gateway.outbox import CorruptOutbox, Outbox, Row
from hermes_tasks.gateway.sender import RowFailed, Sender, Unsendable
from hermes_tasks.gateway.spool import Spool

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 32
"""Rows read from an outbox at a time."""

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_LONGEST_SECONDS = 10.0
"""Waits while Redis takes nothing: doubling from the first to the longest, jittered by half."""

YIELD_SECONDS = 0.001
"""How long the publisher steps aside when a turn has just come.

Sending is pure Python for most of its time and would make callers wait for the interpreter lock:
five turns at once took 3.6 ms beside it (99th percentile), 1 ms without.
"""

ROW_ATTEMPTS = 5
"""Failures in a row, while Redis answers, after which a row (or an outbox that cannot be read) is
left aside for the others' sake."""

TRUNCATE_AFTER_SECONDS = 1.0
"""How long nothing is to be sent before the write-ahead log is emptied."""

ADOPT_EVERY_SECONDS = 60.0
"""How often an idle publisher looks for what dead processes left."""


class Publisher:
    """Sends what is in a spool, in a daemon thread that starts when there is something.

    Attributes:
        trouble: why nothing is being sent, or ``None``.
        published: rows that Redis accepted, or had.
        overflowed: turns that Redis gave up because their session was full.
    """

    def __init__(self, spool: Spool, sender: Sender) -> None:
        self.trouble: str | None = None
        self.published = 0
        self.overflowed = 0
        self._spool = spool
        self._sender = sender
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._resting = False
        self._draining = False
        self._stopped = False
        self._delay = BACKOFF_FIRST_SECONDS
        self._failures = 0

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """There is something to send. Costs next to nothing while the thread is busy anyway."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()
        elif self._resting or self._spool.checkpoint_due:
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Send what can be sent within ``timeout`` seconds, then end the thread."""
        self._sender.link.deadline = time.monotonic() + timeout
        self._draining = True
        self._wake.set()
        thread = self._thread
        if thread is None:
            return
        thread.join(timeout)
        self._stopped = True
        self._wake.set()
        if thread.is_alive():
            # It waits for Redis: let the call fail.
            self._sender.link.abort()
            thread.join(0.2)

    def _start(self) -> None:
        with self._starting:
            if self.is_running or self._stopped:
                return
            thread = threading.Thread(target=self._run, name="hermes-tasks-publisher", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter is going: the next process sends the rows.
                return
            self._thread = thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    outbox = self._spool.head()
                    if outbox is not None:
                        self._publish(outbox)
                    elif self._draining:
                        return
                    else:
                        self._rest()
                except Exception as error:  # noqa: BLE001 - a thread that ends sends nothing more
                    self._back_off(RowFailed(f"{type(error).__name__} while publishing"))
        finally:
            self._sender.link.close()

    def _publish(self, outbox: Outbox) -> None:
        """Send rows until one cannot be sent."""
        try:
            for row in outbox.rows(ROWS_AT_ONCE):
                if self._stopped:
                    return
                if time.monotonic() < self._spool.appended_at + YIELD_SECONDS:
                    time.sleep(YIELD_SECONDS)
                if not self._deliver(outbox, row):
                    return
                self._spool.checkpoint()
        except (BrokerUnavailable, RowFailed) as error:
            self._back_off(error)
        except OutboxError as error:
            self._failures += 1
            if self._stopped:
                return
            if isinstance(error, CorruptOutbox) or self._failures >= ROW_ATTEMPTS:
                self._failures = 0
                self._spool.abandon(outbox, error)
            else:
                self._back_off(error)

    def _deliver(self, outbox: Outbox, row: Row) -> bool:
        """Send a row and take it out; ``False``: go on from the start of the outbox."""
        # Before the mark: while Redis is away nothing was sent.
        self._sender.connect()
        if not outbox.mark(row):
            return True
        try:
            answer = self._sender.send(row, outbox.incarnation, row.previous)
            if answer.status == "gap":
                earliest = outbox.earliest(row.session_key)
                if earliest is not None and earliest < row.number:
                    return False
                # Redis lost what it had accepted before this row, or the row before was refused.
                answer = self._sender.send(row, outbox.incarnation, None)
        except Unsendable as error:
            self._refuse(outbox, row, str(error))
            return True
        except RowFailed as error:
            self._failures += 1
            if self._failures < ROW_ATTEMPTS:
                raise
            self._refuse(outbox, row, str(error))
            return True
        outbox.remove(row)
        self.published += 1
        self.overflowed += len(answer.dropped)
        self._succeeded()
        return True

    def _refuse(self, outbox: Outbox, row: Row, reason: str) -> None:
        logger.warning("turn %s is kept aside and not sent: %s", row.turn_id, reason)
        outbox.refuse(row, reason)
        self._failures = 0
        self._spool.sent()

    def _succeeded(self) -> None:
        self._failures = 0
        self._delay = BACKOFF_FIRST_SECONDS
        if self.trouble is not None:
            self.trouble = None
            logger.info("turns are being sent again")
        self._spool.sent()

    def _back_off(self, error: BrokerUnavailable | RowFailed | OutboxError) -> None:
        if self.trouble is None:
            logger.warning("%s; turns are kept and sent later", error)
        self.trouble = str(error)
        until = time.monotonic() + self._delay * random.uniform(0.5, 1.0)
        self._delay = min(self._delay * 2, BACKOFF_LONGEST_SECONDS)
        while not self._stopped and (remaining := until - time.monotonic()) > 0:
            self._wake.clear()
            # Closing has no time for long waits.
            self._wake.wait(min(remaining, BACKOFF_FIRST_SECONDS) if self._draining else remaining)
            self._spool.checkpoint()
            if self._draining:
                return

    def _rest(self) -> None:
        """Wait for something to send."""
        self._wake.clear()
        self._resting = True
        try:
            # What came in before the line above did not set the event.
            if self._spool.pending or self._draining:
                return
            if self._wake.wait(TRUNCATE_AFTER_SECONDS):
                return
            self._spool.checkpoint(truncate=True)
            if not self._wake.wait(ADOPT_EVERY_SECONDS):
                self._spool.adopt()
        finally:
            self._resting = False
