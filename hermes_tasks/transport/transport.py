"""The transports: :mod:`kombu.transport.redis` with session queues, plain and through Sentinel."""

from __future__ import annotations

import ssl
import threading
from typing import Any, ClassVar

import kombu
from celery.app.amqp import AMQP
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from hermes_tasks.transport.channel import NotNow, SessionChannel
from hermes_tasks.transport.hub import SessionHub
from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names
from hermes_tasks.transport.sessions import SessionStore

#: Seconds between looks for a free slot where no event loop reports one.
SLOT_CHECK = 0.02
#: Seconds a Sentinel has to answer before the next one is asked.
SENTINEL_SECONDS = 1.0


class SessionPoller(kombu_redis.MultiChannelPoller):
    """Kombu's poller, that notices a freed slot under gevent, where workers have no event loop.

    With every slot taken there is nothing to read, and Kombu's would sleep its whole timeout (two
    seconds) although an acknowledgement has freed one meanwhile.
    """

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        if any(
            channel.active_queues and not channel.qos.can_consume() for channel in self._channels
        ):
            timeout = SLOT_CHECK if timeout is None else min(timeout, SLOT_CHECK)
        return super().get(callback, timeout)


class _SessionTransport(kombu_redis.Transport):
    """What all transports add: an entry popped for nobody goes back.

    Attributes:
        delivering: whether what was popped could be decoded, and is being delivered.
    """

    delivering = False

    #: Of any other error Celery would end the worker. A server that was a primary and is a replica
    #: now, or is out of memory, is one to come back to: another may be there, or it recovers.
    connection_errors = (
        *kombu_redis.Transport.connection_errors,
        ReadOnlyError,
        OutOfMemoryError,
        MasterDownError,
        NotNow,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = SessionPoller()

    def _deliver(self, message: Any, queue: str) -> None:
        self.delivering = True
        if queue not in self._callbacks and self._is_run_queue(queue):
            # Consuming was cancelled after the pop. Kombu would reject a message; this is none.
            for channel in self.channels[:1]:
                channel.sessions.give_back(dumps(message))
            return
        super()._deliver(message, queue)

    def _is_run_queue(self, queue: str) -> bool:
        prefix = self.client.transport_options.get("session_prefix", DEFAULT_PREFIX)
        return bool(queue == Names(prefix).run_queue)


class Transport(_SessionTransport):
    """Redis, for ``redis://``, ``rediss://`` and socket URLs."""

    Channel = SessionChannel


class SentinelSessionChannel(SessionChannel, kombu_redis.SentinelChannel):
    """The same over Redis Sentinel."""

    def new_store(self, *, single: bool = False) -> SessionStore:
        """A store over the pool, never ``single``.

        A connection asks Sentinel for the master when a pool hands it out; one that is kept goes
        back to the old master for ever.
        """
        return super().new_store()

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        # redis-py would try a dead Sentinel again for seconds before it asks the next one.
        self.sentinel_kwargs = {
            "socket_connect_timeout": SENTINEL_SECONDS,
            "socket_timeout": SENTINEL_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            **(getattr(self, "sentinel_kwargs", None) or {}),
        }
        pool = super()._sentinel_managed_pool(asynchronous)
        manager = self._async_sentinel_manager if asynchronous else self._sentinel_manager
        _one_at_a_time(manager)
        return pool


def _one_at_a_time(manager: Any) -> None:
    """Let one thread at a time ask a ``redis.sentinel.Sentinel`` for the master.

    The Sentinel that answered swaps places with the first one. Two threads that do so at once leave
    one Sentinel twice in the list, and another not at all.
    """
    discover, lock = manager.discover_master, threading.Lock()

    def discover_master(service_name: str) -> Any:
        try:
            with lock:
                return discover(service_name)
        except MasterNotFoundError:
            # redis-py's message describes each client in many lines.
            raise MasterNotFoundError(
                f"no Sentinel that answers knows a master {service_name!r} that is up"
            ) from None

    manager.discover_master = discover_master


class SentinelTransport(_SessionTransport, kombu_redis.SentinelTransport):
    """Redis through Sentinel, for ``sentinel://`` URLs."""

    Channel = SentinelSessionChannel


class TLSTransport(Transport):
    """Redis over TLS, for ``rediss://`` URLs.

    The server's certificate is checked, against the system's authorities unless the URL names
    another (``?ssl_ca_certs=…``). Kombu would not check it, and for a transport of another name
    than ``rediss`` would not even speak TLS, unless the URL has an ``ssl_…`` option.
    """

    def __init__(self, client: Any, **options: Any) -> None:
        client.ssl = client.ssl or {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **options)


_TRANSPORTS = {
    "redis": f"{__name__}:Transport",
    "rediss": f"{__name__}:TLSTransport",
    "sentinel": f"{__name__}:SentinelTransport",
}


def transport_for(url: str) -> str:
    """The import path of the transport for a broker URL: Celery's ``broker_transport``.

    Needed only where the connection is not a :class:`SessionConnection`. A worker then has Kombu's
    event loop, which may forget a pool process's answer: see :class:`.SessionHub`.
    """
    return _TRANSPORTS.get(url.partition("://")[0], _TRANSPORTS["redis"])


class SessionConnection(kombu.Connection):
    """A connection that carries session queues whatever way it came to its URL.

    Kombu takes the transport from the URL's scheme, even against the one it was given, for
    ``redis+socket://`` and whenever it switches to the next of several URLs, as it does after
    every failure with two Sentinels. A worker would go on with stock Kombu there.
    """

    #: The class of the event loop of a worker that consumes from it.
    requires_hub = SessionHub

    #: What ``as_uri`` shows: the scheme, not the import path.
    resolve_aliases: ClassVar = {
        **kombu.Connection.resolve_aliases,
        **{path: scheme for scheme, path in _TRANSPORTS.items()},
    }

    def _init_params(self, *args: Any, transport: Any = None, **params: Any) -> None:
        super()._init_params(*args, transport=_TRANSPORTS.get(transport, transport), **params)

    def Pool(self, limit: int | None = None, **options: Any) -> SessionConnectionPool:  # noqa: N802
        """A pool of such connections; Kombu's holds connections of a class of its own."""
        return SessionConnectionPool(self, limit, **options)


class PooledSessionConnection(SessionConnection, PooledConnection):
    """One of a :class:`SessionConnectionPool`."""


class SessionConnectionPool(ConnectionPool):
    """What Celery publishes through when it is given no producer, as every retry does."""

    def new(self) -> PooledSessionConnection:
        return PooledSessionConnection(self, **dict(self.connection._info(resolve=False)))


class SessionAMQP(AMQP):
    """Celery's side of it, for ``Celery(amqp=SessionAMQP)``."""

    Connection = SessionConnection
