"""The transports: :mod:`kombu.transport.redis` with session queues, plain and through Sentinel."""

from __future__ import annotations

from typing import Any, ClassVar

import kombu
from celery.app.amqp import AMQP
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from hermes_tasks.transport.channel import SessionChannel
from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names

#: Seconds between looks for a free slot where no event loop reports one.
SLOT_CHECK = 0.02


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
    """What all transports add: an entry popped for nobody goes back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = SessionPoller()

    def _deliver(self, message: Any, queue: str) -> None:
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


class SentinelTransport(_SessionTransport, kombu_redis.SentinelTransport):
    """Redis through Sentinel, for ``sentinel://`` URLs."""

    Channel = SentinelSessionChannel


class TLSTransport(Transport):
    """Redis over TLS, for ``rediss://`` URLs; of its own so that its URL keeps its scheme."""


_SCHEMES = {"sentinel": "SentinelTransport", "rediss": "TLSTransport"}


def transport_for(url: str) -> str:
    """The import path of the transport for a broker URL: Celery's ``broker_transport``."""
    return f"{__name__}:{_SCHEMES.get(url.partition('://')[0], 'Transport')}"


class SessionConnection(kombu.Connection):
    """A connection whose URL shows the scheme it was given, not the transport's import path."""

    resolve_aliases: ClassVar = {
        **kombu.Connection.resolve_aliases,
        **{f"{__name__}:{name}": scheme for scheme, name in _SCHEMES.items()},
        f"{__name__}:Transport": "redis",
    }


class SessionAMQP(AMQP):
    """Celery's side of it, for ``Celery(amqp=SessionAMQP)``: its banner and Flower show the URL."""

    Connection = SessionConnection
