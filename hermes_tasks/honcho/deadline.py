"""The time a call has, in all and in each of its phases, kept where its bytes pass.

``httpx`` bounds the wait for the next byte and nothing bounds the whole: a server that drips one
byte a second holds a call for ever. So the limits are kept in the network stream, where every
connect, read and write waits for what is left of its phase and of the total, whichever is less.
That needs neither signals nor threads and is the same under every pool of Celery. Deadlines belong
to calls: the connections stay. (The lookup of a host's addresses alone is the resolver's: it keeps
the time limits of ``resolv.conf``, and what it took is taken from the connection's.)

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
from functools import partial
from math import inf
from typing import Any, Final, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from hermes_tasks.errors import ConfigurationError
from hermes_tasks.honcho.watchdogs import Watchdogs

KEEPALIVE_SECONDS: Final = 4.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn closes it, so that
no call leaves on a connection that its server is just closing."""

_PIECE: Final = 16_384
"""Bytes written in one step. Underneath, each part of a step that the socket takes starts the wait
anew; so few are taken whole."""

_ABORT: Final = struct.pack("ii", 1, 0)

CONNECTION: Final = "no connection within"
FIRST_BYTE: Final = "no first byte within"
ANSWER: Final = "no complete answer within"
IDLE: Final = "no byte for"

T = TypeVar("T")
Timeout = type[httpcore.ConnectTimeout | httpcore.ReadTimeout | httpcore.WriteTimeout]


class _Watch:
    """A phase of a call that has begun: what is said when it has run out, and when that is."""

    __slots__ = ("ends", "says", "seconds")

    def __init__(self, says: str, seconds: float) -> None:
        self.says = says
        self.seconds = seconds
        self.ends = time.monotonic() + seconds if seconds else inf


@dataclass(slots=True)
class Call:
    """One call: the time it has, whether it may be sent, and whether it was.

    Attributes:
        seconds: the time it has in all.
        check: called right before its first byte leaves; raises if it must not be sent any more.
        messages: how many it carries; its first byte may take longer for more of them.
        began: where its time is counted from, in seconds of :func:`time.monotonic`; by default the
            making of this object.
        sent: a byte of it left this process: it may have been written, or may be yet.
        stopped: what ``check`` raised.
        ran_out: what it was cut for, such as ``no first byte within 5.0 s``; else empty.
    """

    seconds: float
    check: Callable[[], None] | None = None
    messages: int = 0
    began: float = field(default_factory=time.monotonic)
    sent: bool = field(default=False, init=False)
    stopped: Exception | None = field(default=None, init=False)
    ran_out: str = field(default="", init=False)
    _ends: float = field(init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._ends = self.began + self.seconds

    def left(self) -> float:
        """Seconds it still has; 0 or less when they are over."""
        return self._ends - time.monotonic()

    def until(self, watch: _Watch) -> float:
        """Seconds left of a phase and of the whole, whichever is less."""
        return min(self._ends, watch.ends) - time.monotonic()

    def over(self, watch: _Watch, error: Timeout) -> httpcore.TimeoutException:
        """The error for a phase in which the time ran out: its own, or that of the whole."""
        if watch.ends < self._ends:
            self.ran_out = f"{watch.says} {shown(watch.seconds)}"
        else:
            says = ANSWER if watch.says == IDLE else watch.says
            self.ran_out = f"{says} {shown(self.seconds)}"
        return error(self.ran_out)

    def unsent(self) -> None:
        """A request of this call is about to begin: its first byte is to be checked."""
        self._checked = False

    def sending(self) -> None:
        """Bytes of a request are about to leave."""
        if self._checked:
            return
        if self.check is not None:
            try:
                self.check()
            except Exception as error:
                # httpx and the SDK would wrap it: the client takes it from here.
                self.stopped = error
                raise
        self._checked = self.sent = True


current: ContextVar[Call | None] = ContextVar("hermes_tasks_honcho_call", default=None)
"""The call that the running task, thread or greenlet makes."""


class DeadlineTransport(httpx.HTTPTransport):
    """The pooled connections to one service, which obey the deadlines of the :data:`current` call.

    Args:
        base_url: the service; a proxy that the environment names for it is used.
        watchdogs: the limits of a call's phases.

    Raises:
        ConfigurationError: that proxy cannot be used.
    """

    def __init__(self, base_url: str, watchdogs: Watchdogs | None = None) -> None:
        # No limit of connections: the worker's slots bound them.
        limits = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)
        proxy = _proxy(base_url)
        try:
            super().__init__(proxy=proxy, limits=limits)
            hops = [httpx.URL(url) for url in (base_url, proxy) if url is not None]
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used "
                f"({type(error).__name__}); is NO_PROXY missing?"
            ) from None  # its text may hold the proxy's password
        # httpx has no parameter for it. A test makes sure that the attributes still exist.
        self._pool._network_backend = _Backend(
            watchdogs or Watchdogs(), sum(hop.scheme == "https" for hop in hops)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = current.get()
        if call is not None:
            call.unsent()
            request.extensions["timeout"] = {"pool": call.left()}
        response = super().handle_request(request)
        if response.status_code >= 500:
            # The server closes the connection after a 500, unannounced: 26 of 30 calls that went
            # out on it next were reset.
            stream = response.extensions.get("network_stream")
            if isinstance(stream, _Stream):
                stream.finished = True
        return response


class _Backend(httpcore.NetworkBackend):
    """Opens connections within the time that the current call has left.

    Args:
        watchdogs: the limits of a call's phases.
        layers: how often TLS begins on a connection before it carries a request: once for the
            service, once for a proxy that is spoken to in TLS.
    """

    def __init__(self, watchdogs: Watchdogs, layers: int) -> None:
        self._inner = httpcore.SyncBackend()
        self._watchdogs = watchdogs
        self._layers = layers

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        call = current.get()
        connecting = _Watch(CONNECTION, self._watchdogs.connect)
        if call is None:
            inner = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
            return _Stream(inner, self._watchdogs, self._layers, connecting)
        addresses = _addresses(host, port)
        refused: httpcore.ConnectError | None = None
        while addresses and (left := call.until(connecting)) > 0:
            # Each gets its share of what is left: one that swallows everything, as that of a
            # broken IPv6 does, leaves time for the next.
            share = left / len(addresses)
            try:
                inner = self._inner.connect_tcp(
                    addresses.pop(0), port, share, local_address, socket_options
                )
            except httpcore.ConnectTimeout:
                pass
            except httpcore.ConnectError as error:
                refused = error
            else:
                return _Stream(inner, self._watchdogs, self._layers, connecting)
        if refused is not None and call.until(connecting) > 0:
            raise refused
        raise call.over(connecting, httpcore.ConnectTimeout)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose every step waits for what the current call has left.

    Args:
        inner: makes the steps.
        watchdogs: the limits of a call's phases.
        layers: how often TLS has still to begin on it; until then all that is read and written
            belongs to connecting.
        connecting: that phase.

    Attributes:
        finished: no further call may use it.
    """

    def __init__(
        self, inner: httpcore.NetworkStream, watchdogs: Watchdogs, layers: int, connecting: _Watch
    ) -> None:
        self._inner = inner
        self._watchdogs = watchdogs
        self._layers = layers
        self._connecting = connecting
        self._first_byte: _Watch | None = None
        self.finished = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._step(
            partial(self._inner.read, max_bytes),
            self._first_byte,
            timeout,
            httpcore.ReadTimeout,
        )
        self._first_byte = None
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call = current.get()
        if call is not None and buffer and not self._layers and call.left() > 0:
            call.sending()
        for start in range(0, len(buffer), _PIECE):
            piece = buffer[start : start + _PIECE]
            self._step(
                partial(self._inner.write, piece),
                None,
                timeout,
                httpcore.WriteTimeout,
            )
        if call is not None:
            seconds = self._watchdogs.first_byte_of(call.messages)
            self._first_byte = _Watch(FIRST_BYTE, seconds)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self._step(
            partial(self._inner.start_tls, ssl_context, server_hostname),
            None,
            timeout,
            httpcore.ConnectTimeout,
        )
        return _Stream(inner, self._watchdogs, self._layers - 1, self._connecting)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self.finished:
            return True  # which an idle connection is when its server has closed it
        return self._inner.get_extra_info(info)

    def _step(
        self,
        step: Callable[[float | None], T],
        watch: _Watch | None,
        timeout: float | None,
        over: Timeout,
    ) -> T:
        """Read, write or begin TLS, within the time of the phase and of the whole.

        Args:
            step: does it, within so many seconds.
            watch: the phase, if it has begun; without one this is the wait for the next byte.
            timeout: for a step that no call of ours makes.
            over: raised when there is no time left, outside the phase of connecting.
        """
        call = current.get()
        if call is None:
            return step(timeout)
        if self._layers:
            watch, over = self._connecting, httpcore.ConnectTimeout
        elif watch is None:
            watch = _Watch(IDLE, self._watchdogs.idle)
        try:
            seconds = call.until(watch)
            if seconds > 0:
                try:
                    return step(seconds)
                except httpcore.TimeoutException:
                    pass
            raise call.over(watch, over)
        except BaseException:
            # Whatever ends a call in the middle, a time limit of Celery too: it is taken back.
            self._abort()
            raise

    def _abort(self) -> None:
        """Closing now resets the connection: what the server has not read is discarded."""
        sock = self._inner.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            except OSError:
                pass  # it is closed already


def shown(seconds: float) -> str:
    """A time for an error: ``5.0 s``, ``0.25 s``."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which they are to be tried."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"no address ({type(error).__name__})") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _proxy(base_url: str) -> str | None:
    """The proxy that the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) names for an address."""
    url = httpx.URL(base_url)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(url.host) else proxy
