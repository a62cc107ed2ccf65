"""A deployment to look at: once, or for as long as a process runs, as exporter and Flower do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import TimeoutError as NoAnswer

from hermes_tasks.errors import BrokerUnavailable
from hermes_tasks.gateway.link import ANSWER_SECONDS, CONNECT_SECONDS, FAILURES, Link
from hermes_tasks.transport import private_store

if TYPE_CHECKING:
    from celery import Celery

    from hermes_tasks.transport import SessionStore

T = TypeVar("T")


def store_to_look(app: Celery) -> SessionStore:
    """The sessions of a deployment for who only looks: nothing is written to Redis.

    Raises:
        FAILURES: Redis does not answer, or refuses us.
    """
    with app.connection_for_write() as connection:
        connection.transport_options.update(
            max_retries=0,
            retry_on_timeout=False,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
        )
        # Making a channel, Kombu would wait two seconds and try once more.
        connection.ensure_connection(max_retries=0)
        return private_store(connection, timeout=ANSWER_SECONDS)


class View:
    """Answers questions about a deployment; writes nothing to Redis. For any number of threads.

    It connects when it is first asked, and anew when Redis was away. Redis answers soon, or the
    question fails: nothing is waited for twice, nor by one asker after the other.

    Args:
        app: the Celery application whose broker it is.
        safe_url: the broker's URL without password, for messages.
    """

    def __init__(self, app: Celery, safe_url: str) -> None:
        self._app = app
        self._link = Link(app, safe_url)
        self._lock = threading.Lock()
        self._store: SessionStore | None = None
        self._failed = ""
        self._failed_at = float("-inf")

    def ask(self, question: Callable[[SessionStore], T]) -> T:
        """The answer to a question, of which there is one at a time.

        Raises:
            BrokerUnavailable: Redis does not answer, or refuses us.
        """
        asked_at = time.monotonic()
        with self._lock:
            if self._failed_at >= asked_at:
                raise BrokerUnavailable(self._failed)  # found out while this one waited
            try:
                if self._store is not None:
                    try:
                        return question(self._store)
                    except NoAnswer:
                        raise
                    except FAILURES:
                        # It was started again, perhaps: these connections are of its past.
                        self._close()
                self._store = store_to_look(self._app)
                return question(self._store)
            except FAILURES as error:
                self._close()
                broken = self._link.broken(error)
                self._failed, self._failed_at = str(broken), time.monotonic()
                raise broken from error

    def close(self) -> None:
        """Close what is open. The next question opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.client.connection_pool.disconnect()
