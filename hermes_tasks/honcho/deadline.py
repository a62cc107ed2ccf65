"""The time a call has in all, kept where its bytes pass.

``httpx`` bounds the wait for the next byte and nothing bounds the whole: a server that drips one
byte a second holds a call for ever. So the limit is kept in the network stream, where every
connect, read and write waits for what is left of it. That needs neither signals nor threads and is
the same under every pool of Celery. Deadlines belong to calls: the connections stay.

The stream is also where the first byte leaves: there the writer's right to send is checked, and
from there on a call may have been written.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from hermes_tasks.errors import ConfigurationError

CONNECT_SECONDS = 10.0
"""Longest wait for a connection, however much time the call has."""

IDLE_SECONDS = 4.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn closes it, so that
no call leaves on a connection that its server is just closing."""

_PIECE = 65_536
_ABORT = struct.pack("ii", 1, 0)

Timeout = type[httpcore.ConnectTimeout | httpcore.ReadTimeout | httpcore.WriteTimeout]


@dataclass(slots=True)
class Call:
    """One call: the time it has, whether it may be sent, and whether it was.

    Attributes:
        seconds: the time it has in all, counted from the making of this object.
        check: called right before its first byte leaves; raises if it must not be sent any more.
        sent: a byte of it left this process: it may have been written, or may be yet.
        stopped: what ``check`` raised.
    """

    seconds: float
    check: Callable[[], None] | None = None
    sent: bool = field(default=False, init=False)
    stopped: Exception | None = field(default=None, init=False)
    _ends: float = field(init=False)
    _stream: object = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds it still has; 0 or less when they are over."""
        return self._ends - time.monotonic()

    def within(self, seconds: float | None, over: Timeout) -> float:
        """The wait of one step, at most ``seconds``. Raises ``over`` when there is no time left."""
        left = self.left()
        if left <= 0:
            raise over(f"the call had {self.seconds:g} s in all")
        return left if seconds is None else min(left, seconds)

    def unsent(self) -> None:
        """A request of this call is about to begin: its first byte is to be checked."""
        self._stream = None

    def sending(self, stream: object) -> None:
        """The first byte is about to leave on a stream (a proxy's tunnel has two)."""
        if self._stream is stream:
            return
        if self.check is not None:
            try:
                self.check()
            except Exception as error:
                # httpx and the SDK would wrap it: the client takes it from here.
                self.stopped = error
                raise
        self._stream = stream
        self.sent = True


current: ContextVar[Call | None] = ContextVar("hermes_tasks_honcho_call", default=None)
"""The call that the running task, thread or greenlet makes."""


class DeadlineTransport(httpx.HTTPTransport):
    """The pooled connections to one service, which obey the deadline of the :data:`current` call.

    Args:
        base_url: the service; a proxy that the environment names for it is used.

    Raises:
        ConfigurationError: that proxy cannot be used.
    """

    def __init__(self, base_url: str) -> None:
        # No limit of connections: the worker's slots bound them.
        limits = httpx.Limits(keepalive_expiry=IDLE_SECONDS)
        try:
            super().__init__(proxy=_proxy(base_url), limits=limits)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used "
                f"({type(error).__name__}); is NO_PROXY missing?"
            ) from None  # its text may hold the proxy's password
        # httpx has no parameter for it. A test makes sure that the attributes still exist.
        self._pool._network_backend = _Backend()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = current.get()
        if call is not None:
            call.unsent()
            seconds = call.left()
            request.extensions["timeout"] = {
                "pool": seconds,
                "connect": min(seconds, CONNECT_SECONDS),
                "read": seconds,
                "write": seconds,
            }
        response = super().handle_request(request)
        if response.status_code >= 500:
            # The server closes the connection after a 500, unannounced: 26 of 30 calls that went
            # out on it next were reset.
            stream = response.extensions.get("network_stream")
            if isinstance(stream, _Stream):
                stream.finished = True
        return response


class _Backend(httpcore.NetworkBackend):
    """Opens connections within the time that the current call has left."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _within(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose every step waits for what the current call has left.

    Attributes:
        finished: no further call may use it.
    """

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self.finished = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._inner.read(max_bytes, _within(timeout, httpcore.ReadTimeout))
        except httpcore.ReadTimeout:
            self._abort()
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call = current.get()
        if call is not None and buffer:
            call.sending(self)
        try:
            # In pieces: underneath, each piece starts its wait anew.
            for start in range(0, len(buffer), _PIECE):
                piece = buffer[start : start + _PIECE]
                self._inner.write(piece, _within(timeout, httpcore.WriteTimeout))
        except httpcore.WriteTimeout:
            self._abort()
            raise

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _within(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self.finished:
            return True  # which an idle connection is when its server has closed it
        return self._inner.get_extra_info(info)

    def _abort(self) -> None:
        """Closing now resets the connection: what the server has not read is discarded."""
        sock = self._inner.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            except OSError:
                pass  # it is closed already


def _within(seconds: float | None, over: Timeout) -> float | None:
    call = current.get()
    return seconds if call is None else call.within(seconds, over)


def _proxy(base_url: str) -> str | None:
    """The proxy that the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) names for an address."""
    url = httpx.URL(base_url)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(url.host) else proxy
