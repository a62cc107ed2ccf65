"""A TCP server that follows scripts: every way in which a service can hang; and a deaf one."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hermes_tasks.testing.server_config import Tls

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"

Script = Callable[["Connection"], None]


class Connection:
    """The server's end of a connection; what it waits for ends with the test, if nothing else."""

    def __init__(
        self, sock: socket.socket, over: threading.Event, raw: socket.socket | None = None
    ) -> None:
        self.sock = sock
        self.over = over
        self._raw = raw or sock

    def wait_for_end(self) -> None:
        """Say nothing more; take what comes until the client goes."""
        while self._raw.recv(65_536):
            pass

    def request(self) -> bytes:
        """Read a request, its body too; empty when the client has gone."""
        head = b""
        while b"\r\n\r\n" not in head:
            received = self.sock.recv(65_536)
            if not received:
                return b""
            head += received
        head, _, body = head.partition(b"\r\n\r\n")
        size = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"), 0
        )
        while len(body) < size and (received := self.sock.recv(65_536)):
            body += received
        return head


def silent(connection: Connection) -> None:
    """Take requests and say nothing."""
    connection.wait_for_end()


def deaf(connection: Connection) -> None:
    """Read nothing, for as long as the test lasts."""
    connection.over.wait()


def well(connection: Connection) -> None:
    """Answer everything at once."""
    while connection.request():
        connection.sock.sendall(ANSWER)


def late(seconds: float) -> Script:
    """Answer everything, after so many seconds."""

    def script(connection: Connection) -> None:
        while connection.request() and not connection.over.wait(seconds):
            connection.sock.sendall(ANSWER)

    return script


def stalling(said: bytes) -> Script:
    """Say so much of an answer, and then nothing."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(said)
        connection.wait_for_end()

    return script


def dripping(interval: float) -> Script:
    """Answer byte by byte."""

    def script(connection: Connection) -> None:
        connection.request()
        for byte in HEADERS + bytes(1000):
            connection.sock.sendall(bytes([byte]))
            connection.over.wait(interval)

    return script


def tls(files: Tls, script: Script) -> Script:
    """Begin TLS, and then follow the script."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def wrapped(connection: Connection) -> None:
        with (
            context.wrap_socket(connection.sock, server_side=True) as sock,
            # OpenSSL takes a reset for an end.
            socket.socket(fileno=os.dup(sock.fileno())) as raw,
        ):
            script(Connection(sock, connection.over, raw))

    return wrapped


def tunnel(script: Script) -> Script:
    """Open the tunnel that a proxy is asked for, and be what is at its end."""

    def proxy(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        script(connection)

    return proxy


class RawServer:
    """A TCP server: each connection follows the next of its scripts, the last one all others.

    Attributes:
        port: where it listens, on ``host``.
        ends: how each connection ended: ``reset`` or ``closed`` by the client.
        accepted: how many connections there were.
    """

    def __init__(self, *scripts: Script, host: str = "127.0.0.1", port: int = 0) -> None:
        self._scripts = list(scripts)
        self._over = threading.Event()
        self._listener = socket.create_server((host, port))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self.ends: queue.Queue[str] = queue.Queue()
        self.accepted = 0
        self._threads[0].start()

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is down already
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock, script)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        with sock:
            try:
                script(Connection(sock, self._over))
            except (ConnectionResetError, BrokenPipeError):
                self.ends.put("reset")
            else:
                self.ends.put("closed")


@contextmanager
def deaf_port(host: str, port: int = 0) -> Iterator[int]:
    """A port that answers no SYN: its queue of connections nobody accepts is full."""
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(address)
            with socket.socket() as probe:
                probe.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    probe.connect(address)
            yield address[1]
        finally:
            for sock in waiting:
                sock.close()
