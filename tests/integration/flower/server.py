"""Flower as a child process, started as an operator would start it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment


class Flower:
    """``celery -A hermes_tasks flower``.

    Args:
        env: environment variables; of ours, those that configure this project are left out.
        log: file that takes its output.
        directory: that it is started in; ours by default.
        prefix: its ``--url-prefix``.
        login: ``user:password``, without which nobody is let in; without one everybody is, and may
            use the API, too.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        log: Path,
        *,
        directory: Path | None = None,
        prefix: str = "",
        login: str = "",
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/{prefix}".rstrip("/")
        self.log = log
        self.login = login
        options = [f"--port={port}", "--address=127.0.0.1"]
        options += [f"--url-prefix={prefix}"] if prefix else []
        options += [f"--basic-auth={login}"] if login else []
        open_api = {} if login else {"FLOWER_UNAUTHENTICATED_API": "true"}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "hermes_tasks", "flower", *options],
                env=clean_environment() | dict(env) | open_api,
                cwd=directory,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait_ready(self) -> Self:
        """Wait until it answers."""
        wait_until(
            lambda: self.get("/healthcheck") or self._ended(), 60, f"Flower; its log: {self.log}"
        )
        return self

    def _ended(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(self.log.read_text()[-2000:])
        return False

    def answer(self, path: str, *, login: str | None = None) -> tuple[int, str]:
        """Status and text of an answer; a ``login`` of ``""`` is none."""
        login = self.login if login is None else login
        basic = base64.b64encode(login.encode()).decode()
        headers = {"Authorization": f"Basic {basic}"} if login else {}
        try:
            with urlopen(Request(self.url + path, headers=headers), timeout=30) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path: str) -> str | None:
        """A page, or nothing while there is none."""
        try:
            status, text = self.answer(path)
        except (URLError, ConnectionError):
            return None
        return text if status == 200 else None

    def json(self, path: str) -> dict[str, Any]:
        """What a page of JSON says."""
        status, text = self.answer(path)
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Every task it knows, by id."""
        found: dict[str, dict[str, Any]] = json.loads(self.get("/api/tasks") or "{}")
        return found

    def kill(self) -> None:
        """End it by SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
