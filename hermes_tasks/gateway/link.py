"""A gateway's connection to Redis: one that answers soon or fails, and says why.

All connections of a link lead to one Redis process. redis-py replaces a broken connection without a
word, and behind it may be a Redis that has forgotten its last second: that counts as a failure
here, and whoever connects anew sees another :attr:`Link.server`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as OtherServer
from redis.exceptions import RedisError, ResponseError

from hermes_tasks.errors import BrokerUnavailable

if TYPE_CHECKING:
    from celery import Celery

CONNECT_SECONDS = 2.0
"""How long a connection to Redis may take to be made."""

ANSWER_SECONDS = 5.0
"""How long Redis may take to answer: Kombu's default is for ever."""

FAILURES = (RedisError, OperationalError, OSError)
"""What Redis, Kombu and the network raise when Redis does not do what is asked."""

_SHORTEST_WAIT = 0.05

_MEANS = {
    "OutOfMemoryError": "its memory is full (maxmemory), until workers make room or it has more",
    "ReadOnlyError": "it is a replica",
    "NoPermissionError": "its ACL forbids it",
    # What a script was not let do is an error of the script.
    "ACL": "its ACL forbids it",
}
"""What errors of Redis mean that a gateway's user may see."""


class Link:
    """A Kombu connection with tight time-outs, made when it is needed.

    Args:
        app: the Celery application whose broker it is.
        safe_url: the broker's URL without password, for messages.
        connect: seconds that a connection may take to be made.
        answer: seconds that an answer may take.

    Attributes:
        deadline: monotonic time after which nothing should be waited for any more.
        server: run id of the Redis process at the other end; ``None``: not connected.
        answered_at: monotonic time at which that process was certainly alive.
    """

    def __init__(
        self,
        app: Celery,
        safe_url: str,
        *,
        connect: float = CONNECT_SECONDS,
        answer: float = ANSWER_SECONDS,
    ) -> None:
        self.deadline: float | None = None
        self.server: str | None = None
        self.answered_at = 0.0
        self._latest: str | None = None
        self._connect_seconds = connect
        self._answer_seconds = answer
        self._app = app
        self._safe_url = safe_url
        self._connection: Any = None
        self._channel: Any = None
        self._made: WeakSet[Any] = WeakSet()
        self._making = threading.Lock()

    def channel(self) -> Any:
        """A channel on which Redis has answered once.

        Raises:
            BrokerUnavailable: there is none to be had now.
        """
        if self._channel is not None:
            return self._channel
        if self._connection is None:
            self._connection = self._app.connection_for_write()
        self._connection.transport_options.update(
            # Kombu would wait and try again by itself; who asks here has better waits.
            max_retries=0,
            retry_on_timeout=False,
            session_meet=self._meet,
            session_made=self._remember,
            socket_connect_timeout=self._at_most(self._connect_seconds),
            socket_timeout=self._at_most(self._answer_seconds),
        )
        self.server, begun = None, time.monotonic()
        try:
            self._connection.ensure_connection(max_retries=0)
            channel = self._connection.default_channel
            channel.sessions.note_server(self._latest)
            self._channel, self._latest, self.answered_at = channel, self.server, begun
        except FAILURES as error:
            self._connection.maybe_switch_next()
            raise self.broken(error) from error
        return self._channel

    def ping(self) -> None:
        """Make sure that the Redis process at the other end is alive.

        Raises:
            BrokerUnavailable: it is not, or another one answers now.
        """
        begun = time.monotonic()
        try:
            self.channel().sessions.client.ping()
        except FAILURES as error:
            raise self.broken(error) from error
        self.answered_at = begun

    def broken(self, error: Exception) -> BrokerUnavailable:
        """Drop the connection; what to raise for the error it ended with."""
        self.close()
        cause = error.__cause__ if isinstance(error, OperationalError) else None
        cause = cause or error
        # What Redis says of a command may quote it.
        reason = error_code(cause) if isinstance(cause, ResponseError) else str(cause)
        means = _MEANS.get(type(cause).__name__) or _MEANS.get(reason)
        if means is not None:
            reason = f"{means} ({reason})"
        return BrokerUnavailable(f"Redis at {self._safe_url} does not take turns: {reason}")

    def close(self) -> None:
        """Drop the connection; the next use makes another."""
        self._channel = self.server = None
        if self._connection is not None:
            self._connection.release()

    def abort(self) -> None:
        """Let a call that waits in another thread for an answer fail now."""
        with self._making:
            made = list(self._made)
        for connection in made:
            connection.disconnect()

    def _remember(self, connection: Any) -> None:
        with self._making:
            self._made.add(connection)

    def _meet(self, server: str) -> None:
        if self.server is None:
            self.server = server
        elif server != self.server:
            raise OtherServer("another Redis process answers than before")

    def _at_most(self, seconds: float) -> float:
        if self.deadline is None:
            return seconds
        return min(seconds, max(_SHORTEST_WAIT, self.deadline - time.monotonic()))


def error_code(error: BaseException) -> str:
    """What kind of error it is, without its text."""
    word = str(error).partition(" ")[0]
    return word if word.isupper() else type(error).__name__
