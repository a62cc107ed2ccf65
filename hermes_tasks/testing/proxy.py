"""TCP links that can be cut, slowed down and swallowed: what stands between two processes.

::

    with Links() as links:
        link = links.open(server.port)          # clients connect to link.port
        link.delay(0.2)                         # every piece takes so long, in each direction
        link.hole()                             # nothing gets through, nobody is told
        link.cut()                              # every connection is reset, new ones are refused
        link.heal()

What a client takes back while its bytes wait here (it resets the connection) does not arrive any
more, as on a network whose retransmissions end with the connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

HOST = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)
_PIECE = 65_536
_CLOSE_SECONDS = 0.05

T = TypeVar("T")


@dataclass(slots=True)
class Request:
    """What a client began to send when nothing it sent was unanswered.

    Attributes:
        at: when its first bytes were here, in seconds of :func:`time.monotonic`.
        port: the client's, as the server sees it.
        line: its first line, of a request in HTTP.
        answer: first line of what was passed on to the client as an answer; empty: nothing was.
    """

    at: float
    port: int
    line: str
    answer: str = ""


@dataclass(slots=True, eq=False)
class _Connection:
    """Both ends of one connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    request: Request | None = None

    def reset(self) -> None:
        for writer in self._ends():
            _reset(writer)

    def close(self) -> None:
        for writer in self._ends():
            writer.close()

    def _ends(self) -> list[asyncio.StreamWriter]:
        return [self.client] if self.server is None else [self.client, self.server]


class Link:
    """A port of 127.0.0.1 that leads to another. Make it with :meth:`Links.open`.

    Attributes:
        port: where clients connect to.
        requests: what went through, in order; only what began while ``watched``.
    """

    def __init__(self, links: Links, target: int, watched: bool) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self._links = links
        self._target = target
        self._watched = watched
        self._delay = 0.0
        self._passable = asyncio.Event()
        self._passable.set()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    # -- what a test says ----------------------------------------------------------------------

    def cut(self, *, refuse: bool = True) -> None:
        """Reset every connection; until :meth:`heal`, ``refuse`` new ones."""
        self._links.run(self._cut(refuse))

    def delay(self, seconds: float) -> None:
        """Every piece takes so long, in each direction."""
        self._delay = seconds

    def hole(self) -> None:
        """Let nothing through, and tell nobody."""
        self._links.run(self._set_passable(False))

    def heal(self) -> None:
        """Be a network as it should be. What waits in a hole arrives now."""
        self._delay = 0.0
        self._links.run(self._set_passable(True))
        self._links.run(self.listen())

    # -- how, in the thread of the links -------------------------------------------------------

    async def listen(self) -> None:
        """Take connections, on the same port as ever."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End it and every connection."""
        await self._cut(True)

    async def _cut(self, refuse: bool) -> None:
        if refuse and self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.reset()

    async def _set_passable(self, passable: bool) -> None:
        if passable:
            self._passable.set()
        else:
            self._passable.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            await self._passable.wait()
            answers, connection.server = await asyncio.open_connection(HOST, self._target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, connection.server, connection, asking=True))
                pumps.create_task(self._pump(answers, writer, connection, asking=False))
        except* OSError:
            connection.reset()
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        connection: _Connection,
        *,
        asking: bool,
    ) -> None:
        while data := await source.read(_PIECE):
            if asking and self._watched:
                self._note(data, connection)
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._passable.wait()
            taken_back = source.exception()
            if taken_back is not None:
                raise taken_back
            sink.write(data)
            await sink.drain()
            if not asking and connection.request is not None:
                connection.request.answer = _first_line(data)
                connection.request = None
        await self._passable.wait()
        if sink.can_write_eof():
            sink.write_eof()

    def _note(self, data: bytes, connection: _Connection) -> None:
        if connection.request is None and connection.server is not None:
            port = connection.server.get_extra_info("sockname")[1]
            connection.request = Request(time.monotonic(), port, _first_line(data))
            self.requests.append(connection.request)


class Links:
    """Links, carried by one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def open(self, target: int, *, watched: bool = False) -> Link:
        """A link to a port of 127.0.0.1, where nobody needs to listen yet.

        ``watched``: what goes through is kept in :attr:`Link.requests`.
        """
        link = Link(self, target, watched)
        self.run(link.listen())
        self._links.append(link)
        return link

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Do something in the thread of the links."""
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(10)

    def close(self) -> None:
        """End every link."""
        for link in self._links:
            self.run(link.close())
        self.run(_let_end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _let_end() -> None:
    """Wait until whatever was served has noticed that it is over."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # A transport that is closed lets go of its socket in a later step.
    await asyncio.sleep(_CLOSE_SECONDS)


def _first_line(data: bytes) -> str:
    return data.partition(b"\r\n")[0].decode("ascii", "replace")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that its other end gets an error, not an end."""
    sock = writer.get_extra_info("socket")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # it is closed already
    writer.transport.abort()
