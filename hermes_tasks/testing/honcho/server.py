"""The stand-in as a child process, and what a test says to it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

READY = "the Honcho stand-in listens on "
"""What it prints, before its URL, once it takes connections."""

_START_SECONDS = 15.0
_ANSWER_SECONDS = 30.0


class HonchoServer:
    """A stand-in for Honcho in a process of its own. It ends with the process that started it.

    Args:
        port: TCP port of 127.0.0.1; a free one, which stays the same over restarts, by default.
        api_key: let in nobody without this bearer token.
        journal: file that keeps what it stores over restarts, and with it when each call came and
            landed; see :mod:`~.journal`.
    """

    def __init__(
        self, *, port: int = 0, api_key: str | None = None, journal: Path | None = None
    ) -> None:
        self._port = port
        self._api_key = api_key
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Base URL, as ``HONCHO_URL`` takes it."""
        if self._url is None:
            raise RuntimeError("the Honcho stand-in was never started")
        return self._url

    @property
    def pid(self) -> int:
        """The process id of the running stand-in."""
        if self._process is None:
            raise RuntimeError("the Honcho stand-in is not running")
        return self._process.pid

    # -- what tests say ------------------------------------------------------------------------

    def control(self, **orders: Any) -> None:
        """Tell it to misbehave, or to stop it: see :class:`~.faults.Faults`.

        Raises:
            ValueError: it does not understand; nothing has changed.
        """
        self._ask("POST", "/_control", orders)

    def log(self, session: str | None = None, **columns: str) -> list[dict[str, Any]]:
        """Every stored message in the order of insertion, of all sessions or of one.

        Each has ``number``, ``batch`` (the number of its POST), ``workspace``, ``session``,
        ``peer``, ``content``, ``metadata`` and ``created_at``.
        """
        return self._entries("/_log", session, columns)

    def conclusions(self, session: str | None = None, **columns: str) -> list[dict[str, Any]]:
        """Every stored conclusion in the order of insertion, of all sessions or of one.

        Each has ``number``, ``after`` (the number of the message before it, of any session),
        ``workspace``, ``session``, ``observer``, ``observed`` and ``content``.
        """
        return self._entries("/_conclusions", session, columns)

    def _entries(
        self, path: str, session: str | None, columns: dict[str, str]
    ) -> list[dict[str, Any]]:
        if session is not None:
            columns["session"] = session
        entries: list[dict[str, Any]] = self._ask("GET", f"{path}?{urlencode(columns)}")
        return entries

    def stats(self) -> dict[str, Any]:
        """What happened so far.

        ``calls`` by route, ``statuses`` of the answers, TCP ``connections``, ``messages`` stored,
        calls ``in_flight`` and ``most_in_flight``, and ``overlaps``: writes to a session that began
        while another was open.
        """
        stats: dict[str, Any] = self._ask("GET", "/_stats")
        return stats

    def arrivals(self) -> list[tuple[float, str]]:
        """When each call came, in seconds of :func:`time.monotonic`, and its route."""
        return [(at, route) for at, route in self._ask("GET", "/_arrivals")]

    def clear(self) -> None:
        """Forget everything that was stored, counted and told."""
        self._ask("POST", "/_clear", {})
        self.control(reset=True, api_key=self._api_key)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        address = urlsplit(self.url)
        connection = HTTPConnection(str(address.hostname), address.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["detail"])
        return answer

    # -- its life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it listens.

        Raises:
            RuntimeError: it ended at once, or did not start in 15 s.
        """
        command = [sys.executable, "-m", "hermes_tasks.testing.honcho", "--until-eof"]
        command += ["--port", str(self._port)]
        if self._api_key is not None:
            command += ["--api-key", self._api_key]
        if self._journal is not None:
            command += ["--journal", str(self._journal)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A Ctrl-C is for the process that started it, which stops it last.
            start_new_session=True,
        )
        self._url = self._wait_until_ready(self._process)
        self._port = int(self._url.rpartition(":")[2])
        return self

    def stop(self) -> None:
        """End it. What it stored is gone, unless it keeps a journal."""
        if self._process is not None:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start it anew on the same port: empty, unless it keeps a journal."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process: connections are taken by the kernel and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<HonchoServer url={self._url} running={self._process is not None}>"

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        deadline = time.monotonic() + _START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                self.stop()
                raise RuntimeError(f"the Honcho stand-in did not start in {_START_SECONDS:g} s")
            read = os.read(process.stdout.fileno(), 1024)
            if not read:
                self.stop()
                raise RuntimeError("the Honcho stand-in ended at once; its error is above")
            line += read
        return line.decode().strip().removeprefix(READY)
