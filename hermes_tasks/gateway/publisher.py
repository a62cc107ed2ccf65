"""The publisher: one thread that carries rows from the outboxes to Redis, in order.

Rows travel in batches: all of one go out in one round trip, and Redis answers each. A turn counts
as sent with its answer. It is kept until Redis cannot forget it any more (:mod:`.spool`).
"""

from __future__ import annotations

import logging
import random
import threading
import time

from hermes_tasks.errors import BrokerUnavailable, OutboxError
from hermes_tasks.gateway.callers import Callers
from hermes_tasks.gateway.outbox import CorruptOutbox, Outbox, Row
from hermes_tasks.gateway.report import Report
from hermes_tasks.gateway.sender import Parcel, RowFailed, Sender, Unsendable
from hermes_tasks.gateway.spool import Spool

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 8
"""Rows that are sent in one round trip: what it takes in Python, callers may have to wait for."""

ROWS_AT_ONCE_FAR = 32
FAR_SECONDS = 0.005
"""The same while the latest round trip took so long that fewer of them matter more."""

TOGETHER_SECONDS = 0.02
"""How long after one batch the next one goes, unless it is full by then: turns that come one after
another share a round trip, and the publisher need not be woken, or look, for each of them."""

COMPANY_SECONDS = 0.1
"""How long after one turn another is expected, and what can wait does: syncing the disk."""

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_LONGEST_SECONDS = 10.0
"""Waits while Redis takes nothing: doubling from the first to the longest, jittered by half."""

ROW_ATTEMPTS = 5
"""Failures in a row, while Redis answers, after which a row (or an outbox that cannot be read) is
left aside for the others' sake."""

TRUNCATE_AFTER_SECONDS = 1.0
"""How long nothing is to be sent before the write-ahead log is emptied."""

ADOPT_EVERY_SECONDS = 60.0
"""How often an idle publisher looks for what dead processes left."""


class Publisher:
    """Sends what is in a spool, in a daemon thread that starts when there is something.

    Args:
        spool: what is to be sent.
        sender: sends it.
        callers: whose way it keeps out of.

    Attributes:
        trouble: why nothing is being sent, or ``None``.
        published: rows that Redis accepted, or had.
        overflowed: turns that Redis gave up because their session was full.
    """

    def __init__(self, spool: Spool, sender: Sender, callers: Callers) -> None:
        self.trouble: str | None = None
        self.published = 0
        self.overflowed = 0
        self._spool = spool
        self._sender = sender
        self._callers = callers
        self._report = Report(spool)
        self._thread: threading.Thread | None = None
        self._running = False
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._resting = False
        self._draining = False
        self._stopped = False
        # Whether Redis is to be asked which process it is, although there is nothing to send.
        self._asked = threading.Event()
        self._asked.set()
        self._delay = BACKOFF_FIRST_SECONDS
        self._failures = 0
        self._retry_at = 0.0
        self._round_trip_seconds = 0.0
        self._sent_at = 0.0

    @property
    def retry_after(self) -> float:
        """Seconds until it tries again, if there is trouble."""
        return max(0.0, self._retry_at - time.monotonic())

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """There is something to send. Costs next to nothing while the thread is busy anyway."""
        if not self._running:
            self._start()
        elif self._resting or self._spool.checkpoint_overdue:
            self._wake.set()

    def ask(self) -> None:
        """Look which Redis process answers, so that what another one has forgotten is sent again.

        Returns at once.
        """
        self._asked.set()
        self._wake.set()
        if not self.is_running:
            self._start()

    def close(self, timeout: float) -> None:
        """Send what can be sent within ``timeout`` seconds, then end the thread.

        A call that waits for an answer is broken off; the making of a connection cannot be. If one
        is being made when the time is over, the thread, a daemon, does nothing more and ends with
        the attempt: within :data:`~.link.CONNECT_SECONDS` for each address of the host.
        """
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
        self._running = True
        try:
            while not self._stopped:
                try:
                    outbox = self._spool.head()
                    if outbox is not None:
                        self._publish(outbox)
                    elif self._draining:
                        return
                    elif self._asked.is_set():
                        self._look()
                    else:
                        self._rest()
                except Exception as error:  # noqa: BLE001 - a thread that ends sends nothing more
                    self._back_off(RowFailed(f"{type(error).__name__} while publishing"))
        finally:
            self._running = False
            self._sender.link.close()

    def _publish(self, outbox: Outbox) -> None:
        """Send a batch of rows, or as many of them as can be sent."""
        self._gather()
        self._callers.be_patient()
        self._callers.give_way()
        try:
            # Before any mark: while Redis is away nothing was sent.
            self._settle()
            if self.trouble is not None:  # Redis may take no turns, but this
                self._report.tell(self._sender.link)
            self._callers.give_way()
            if self._spool.head() is not outbox:
                return  # another process answers: what is older goes first
            # A row that failed goes alone: it would make those behind it be sent again and again.
            rows = outbox.rows(1 if self._failures else self._batch())
            rows = outbox.mark(rows) if rows else []
            if rows:
                self._deliver(outbox, rows)
            self._report.tell(self._sender.link)
            self._tidy()
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

    def _deliver(self, outbox: Outbox, rows: list[Row]) -> None:
        """Send marked rows; those that Redis accepted are no longer pending."""
        accepted = 0
        try:
            packed, failure = self._pack(outbox, rows)
            self._callers.give_way()
            begun = time.monotonic()
            try:
                for answer in self._sender.send(packed):
                    if answer.dropped:
                        self.overflowed += len(answer.dropped)
                        self._spool.given_up(rows[accepted].session_key, answer.dropped)
                    accepted += 1
            finally:
                self._sent_at = time.monotonic()
                self._round_trip_seconds = self._sent_at - begun
                self._callers.give_way()
                outbox.accept(rows[:accepted])
                self.published += accepted
                if accepted:
                    self._succeeded()
            if failure is not None:
                raise failure
        except Unsendable as error:
            self._refuse(outbox, rows[accepted], str(error))
        except RowFailed as error:
            self._failures += 1
            if self._failures < ROW_ATTEMPTS:
                raise
            self._refuse(outbox, rows[accepted], str(error))

    def _pack(
        self, outbox: Outbox, rows: list[Row]
    ) -> tuple[list[Parcel], Unsendable | RowFailed | None]:
        """The messages of rows, up to the first that cannot be one, and why it cannot."""
        packed: list[Parcel] = []
        latest: dict[str, int] = {}
        self._callers.give_way()
        for row in rows:
            self._callers.give_way_in_time()
            previous = latest.get(row.session_key, row.previous)
            try:
                packed.append(self._sender.pack(row, outbox.incarnation, previous))
            except (Unsendable, RowFailed) as error:
                return packed, error
            except BrokerUnavailable as error:
                for parcel in packed:
                    parcel.traced.end(error)
                raise
            latest[row.session_key] = row.number
        return packed, None

    def _gather(self) -> None:
        """While turns come one after another, let some come that can travel together."""
        remaining = self._sent_at + TOGETHER_SECONDS - time.monotonic()
        if remaining > 0 and self._spool.pending < ROWS_AT_ONCE:
            self._sleep(remaining)

    def _batch(self) -> int:
        return ROWS_AT_ONCE if self._round_trip_seconds < FAR_SECONDS else ROWS_AT_ONCE_FAR

    def _settle(self) -> None:
        """Forget what the Redis process that answers has on disk; recall what it never had."""
        server = self._sender.connect()
        self._spool.confirm(server, self._sender.link.answered_at, self._callers.give_way)

    def _look(self) -> None:
        """See whether the Redis process that accepted what is kept still answers."""
        try:
            self._sender.connect()
            self._sender.link.ping()
            self._settle()
        except BrokerUnavailable as error:
            self._back_off(error)
        else:
            self._asked.clear()
            self._works()

    def _refuse(self, outbox: Outbox, row: Row, reason: str) -> None:
        logger.warning("turn %s is kept aside and not sent: %s", row.turn_id, reason)
        outbox.refuse(row, reason)
        self._failures = 0
        self._spool.sent()

    def _succeeded(self) -> None:
        self._failures = 0
        self._works()
        self._spool.sent()

    def _works(self) -> None:
        self._delay = BACKOFF_FIRST_SECONDS
        if self.trouble is not None:
            self.trouble = None
            logger.info("turns are being sent again")

    def _back_off(self, error: BrokerUnavailable | RowFailed | OutboxError) -> None:
        if self.trouble is None and not self._stopped:
            logger.warning("%s; turns are kept and sent later", error)
        self.trouble = str(error)
        self._retry_at = until = time.monotonic() + self._delay * random.uniform(0.5, 1.0)
        self._delay = min(self._delay * 2, BACKOFF_LONGEST_SECONDS)
        while not self._stopped and (remaining := until - time.monotonic()) > 0:
            self._wake.clear()
            # Closing has no time for long waits.
            self._wait(min(remaining, BACKOFF_FIRST_SECONDS) if self._draining else remaining)
            if self._draining:
                return

    def _rest(self) -> None:
        """Wait for something to send."""
        if time.monotonic() < self._sent_at + COMPANY_SECONDS:
            # Whoever calls next need not spend his time on waking anybody.
            self._sleep(TOGETHER_SECONDS)
            return
        self._wake.clear()
        self._resting = True
        try:
            # What came in before the line above did not set the event.
            if self._spool.head() or self._draining or self._asked.is_set():
                return
            keep_until = self._spool.keep_until
            if keep_until is not None:
                if not self._wait(keep_until - time.monotonic()):
                    self._asked.set()
                return
            if self._wait(TRUNCATE_AFTER_SECONDS):
                return
            self._spool.checkpoint(truncate=True)
            if not self._wake.wait(ADOPT_EVERY_SECONDS):
                self._spool.adopt()
        finally:
            self._resting = False

    def _sleep(self, seconds: float) -> None:
        """Wait for so long, unless the gateway closes. Callers wake nobody meanwhile."""
        self._wake.clear()
        if not self._draining:
            self._wake.wait(seconds)

    def _wait(self, seconds: float) -> bool:
        """Wait for so long, or until woken, and tidy up meanwhile; whether it was woken."""
        until = time.monotonic() + seconds
        while True:
            self._tidy()
            remaining = max(0.0, until - time.monotonic())
            untidy = self._spool.checkpoint_due
            if self._wake.wait(min(remaining, COMPANY_SECONDS) if untidy else remaining):
                return True
            if remaining <= COMPANY_SECONDS or not untidy:
                return False

    def _tidy(self) -> None:
        """Move write-ahead logs: when no turn comes, or else when they have grown long."""
        if self._spool.checkpoint_overdue or (
            self._spool.checkpoint_due and self._callers.quiet_for(COMPANY_SECONDS)
        ):
            self._spool.checkpoint()
