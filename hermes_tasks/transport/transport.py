"""The transports: :mod:`kombu.transport.redis` with session queues, plain and through Sentinel."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis

from hermes_tasks.transport.channel import SessionChannel
from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names


class _SessionTransport(kombu_redis.Transport):
    """What both transports add: an entry popped for nobody goes back."""

    def _deliver(self, message: Any, queue: str) -> None:
        if queue not in self._callbacks and self._is_run_queue(queue):
            # Consuming was cancelled after the pop. Kombu would reject a message; this is none.
            for channel in self.channels[:1]:
                channel.sessions.give_back(_entry(message))
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


def transport_for(url: str) -> str:
    """The import path of the transport for a broker URL: Celery's ``broker_transport``."""
    sentinel = url.startswith("sentinel://")
    return f"{__name__}:{'SentinelTransport' if sentinel else 'Transport'}"


def _entry(message: Any) -> str:
    from kombu.utils.json import dumps

    return str(dumps(message))
