"""Every error of hermes_tasks, in one tree.

::

    HermesTasksError
    ├── ConfigurationError          a setting is missing or wrong
    │   ├── MissingExtra            an optional part of the package is not installed
    │   └── MissingKey              a turn is sealed with a key that this process does not have
    ├── InvalidTurn                 the caller's turn cannot be remembered as it is
    ├── Closed                      the gateway was closed; it takes no more turns
    ├── StillSyncing                a flush ran out of time; nothing is lost, ask again
    ├── SourceError                 a file given to ``replay`` cannot be read
    ├── UnknownLetter               there is no dead letter of that name
    ├── UnknownSession              Redis knows no session of that name
    ├── UnknownGate                 no gate has that name, or several could be meant
    ├── OutboxError                 the gateway's outbox file cannot be used
    ├── QueueError
    │   ├── BrokerUnavailable       Redis does not answer, or refuses us
    │   ├── LeaseLost               another worker may own the session: stop, write nothing
    │   ├── SessionHeld             the session waits, without its task, until a call may start
    │   └── GivenUp                 the result of a message that became a dead letter
    └── HonchoError
        ├── DeadlineExceeded        no answer in time: may have been written
        ├── Unreachable             no connection, or it broke: see ``may_have_been_written``
        ├── Overloaded              5xx: the server answered, or its proxy did
        ├── RateLimited             429: not written, come back after ``retry_after``
        ├── Unauthorised            401, 403: the worker's key is wrong; every turn waits
        └── Refused                 any other 4xx: this request will never be taken
            └── SessionDeleted      404 on messages: posting again would re-create the session

No error carries conversation text: the messages are made of names, numbers and statuses, and a
cause whose own text could echo a request body is replaced by :class:`Withheld` before chaining.
"""

from __future__ import annotations


class HermesTasksError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(HermesTasksError):
    """A setting is missing or cannot be used. The message names it and says what to set."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional part is not installed. The message says what to install."""


class MissingKey(ConfigurationError):
    """A turn is sealed with a key that is not in ``HERMES_TASKS_ENCRYPTION_KEYS`` here.

    Nothing is wrong with the turn: it can be read where the key is.

    Attributes:
        key: fingerprint of the key.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class InvalidTurn(HermesTasksError):
    """A turn cannot be remembered as given. The message names the field, never its content."""


class Closed(HermesTasksError):
    """``sync_turn`` was called after ``close`` began."""


class StillSyncing(HermesTasksError):
    """Turns were not all written in the time given to ``flush``. Retryable; nothing is lost.

    Attributes:
        waiting: how many turns of the session wait.
        seconds: how long was waited for them.
        oldest: seconds since Redis accepted the oldest of them; ``None``: it has not, or is away.
        reason: why they are not written yet.
        retry_after: seconds after which to ask again.
    """

    def __init__(
        self,
        message: str,
        *,
        waiting: int = 0,
        seconds: float = 0.0,
        oldest: float | None = None,
        reason: str = "",
        retry_after: float = 1.0,
    ) -> None:
        super().__init__(message)
        self.waiting = waiting
        self.seconds = seconds
        self.oldest = oldest
        self.reason = reason
        self.retry_after = retry_after


class SourceError(HermesTasksError):
    """A conversation source cannot be read. The message names the file and, if any, the line."""


class UnknownLetter(HermesTasksError):
    """No dead letter has this id. It may have been retried, purged, or grown too old."""


class UnknownSession(HermesTasksError):
    """Redis knows no session of this name. It is forgotten a day after its last turn."""


class UnknownGate(HermesTasksError):
    """There is no gate of this name, or none was named and there are several."""


class OutboxError(HermesTasksError):
    """The outbox file cannot be opened or written. The message names the path and what to do."""


class QueueError(HermesTasksError):
    """The queue in Redis could not do what was asked."""


class BrokerUnavailable(QueueError):
    """Redis does not answer or refuses the connection. The message names the URL, no password."""


class LeaseLost(QueueError):
    """The lease on a session is gone or too old to write under.

    Whoever gets this must not send another byte for the session: another worker owns it, or may.
    """


class SessionHeld(QueueError):
    """No call may start now: the session waits, without this task. Write nothing.

    It waits at the gate for its turn, or in Redis for the time when no earlier call can land.
    """


class GivenUp(QueueError):
    """The result of a message that became a dead letter; the message is the reason."""


class HonchoError(HermesTasksError):
    """A call to Honcho failed.

    Attributes:
        status: the HTTP status, or ``None`` when there was no answer.
        may_have_been_written: whether the request may have been (or may yet be) applied.
    """

    status: int | None = None
    may_have_been_written: bool = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        may_have_been_written: bool | None = None,
    ) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status
        if may_have_been_written is not None:
            self.may_have_been_written = may_have_been_written


class DeadlineExceeded(HonchoError):
    """No complete answer within the deadline. The write may have happened, or may yet happen."""


class Unreachable(HonchoError):
    """No connection (then nothing was written), or one that broke (then it may have been)."""


class Overloaded(HonchoError):
    """5xx. After 502 and 504 the write may have happened; after 500 and 503 it has not."""


class RateLimited(HonchoError):
    """429. Nothing was written.

    Attributes:
        retry_after: seconds the server asked us to wait, or ``None``.
    """

    may_have_been_written = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, status=429)
        self.retry_after = retry_after


class Unauthorised(HonchoError):
    """401 or 403, or a 402 or 407. Nothing was written, and no other call would be let in.

    Attributes:
        advice: what to do about it.
    """

    may_have_been_written = False

    def __init__(
        self, message: str, *, status: int, advice: str = "set HONCHO_API_KEY of the workers"
    ) -> None:
        super().__init__(f"{message}: {advice}", status=status)
        self.advice = advice


class Refused(HonchoError):
    """A 4xx that will be the same for ever. Nothing was written."""

    may_have_been_written = False


class SessionDeleted(Refused):
    """404 on a session's messages: it was deleted, and posting again would re-create it."""


class Withheld(Exception):
    """Stands for a cause whose text may quote a conversation: its class and status only."""
