"""A PostgreSQL server as a child process, where Debian's package is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil


class PostgresServer:
    """One server on a free port of 127.0.0.1, its data in a temporary directory."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
        # It refuses to run as root, and Debian's package brings a user of this name.
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self._directory, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def programs() -> Path | None:
        """Where its programs are; ``None``: it is not installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        return found[-1].parent if found else None

    @property
    def url(self) -> str:
        """As libpq takes it."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        programs = self.programs()
        assert programs is not None, "PostgreSQL is not installed"
        data = self._directory / "data"
        self._run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"])
        self._process = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(self._port), "-k", self._directory],
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up = time.monotonic() + 15.0
        while self._run([programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port)]):
            if time.monotonic() > give_up:
                raise TimeoutError("PostgreSQL did not start in 15 s")
            time.sleep(0.05)
        return self

    def pause(self) -> None:
        """Stop every process of it: the kernel takes connections, and nobody answers."""
        assert self._process is not None
        for process in self._every():
            process.suspend()

    def pids(self) -> list[int]:
        """Of all its processes. Those that it starts later run where the first of them does."""
        return [process.pid for process in self._every()]

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for process in self._every():
                with suppress(psutil.NoSuchProcess):  # it has ended with the one before it
                    process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _every(self) -> list[psutil.Process]:
        """The postmaster and its backends, each of which is in a process group of its own."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def _run(self, command: list[object]) -> int:
        return subprocess.run(
            [str(part) for part in command],
            user=self._user,
            cwd=self._directory,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode
