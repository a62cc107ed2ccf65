"""A Celery worker of ours as a child process, started as an operator would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from hermes_tasks.errors import HermesTasksError
from hermes_tasks.testing.waiting import wait_until

_READY = " ready."


class WorkerDied(HermesTasksError):
    """A worker process ended before it was ready. The message holds the end of its log."""


class WorkerProcess:
    """``celery -A APP worker ARGS`` in a process group of its own.

    Args:
        arguments: what follows ``worker`` on the command line.
        env: environment variables to set; of the caller's own environment, those that would
            configure this project or Celery are left out.
        log: file that takes the worker's output, appended to; ``None`` shares ours, and nothing
            can then be read of it here.
        app: the Celery application.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path | None,
        app: str = "hermes_tasks",
    ) -> None:
        self.command = [sys.executable, "-m", "celery", "-A", app, "worker", *arguments]
        if not {"-l", "--loglevel"} & set(arguments):
            # A worker says that it is ready at this level only.
            self.command += ["--loglevel", "INFO"]
        self._log_path = log
        self._env = clean_environment() | dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0

    @property
    def pid(self) -> int:
        """Process id of the worker's main process, and of its process group."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether the main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """The file that takes the worker's output."""
        if self._log_path is None:
            raise RuntimeError("this worker's output goes to ours")
        return self._log_path

    @property
    def log(self) -> str:
        """What the worker has written since its last start."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_begin)
            return file.read().decode(errors="replace")

    def start(self, timeout: float = 30.0) -> Self:
        """Start the worker and wait until it consumes.

        Raises:
            WorkerDied: it ended instead.
            TimeoutError: it was not ready within ``timeout`` seconds.
        """
        self.launch()
        self.wait_ready(timeout)
        return self

    def launch(self) -> None:
        """Start the worker and do not wait."""
        if self._log_path is None:
            self._process = self._popen(None)
            return
        with self._log_path.open("ab") as log:
            self._log_begin = log.tell()
            self._process = self._popen(log)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the worker consumes; errors as :meth:`start`."""

        def ready() -> bool:
            if _READY in self.log:
                return True
            if not self.is_running:
                raise WorkerDied(
                    f"the worker ended with status {self._started().returncode}:\n"
                    + self.log[-2000:]
                )
            return False

        wait_until(ready, timeout, f"the worker {self.pid} to be ready; its log: {self.log_path}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker's main process only."""
        self._started().send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the main process to end; its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it did not end within ``timeout`` seconds.
        """
        return self._started().wait(timeout)

    def stop(self, timeout: float = 30.0) -> int:
        """Shut the worker down warm: it finishes what it has begun. Its exit status."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """End the main process and its pool by SIGKILL, at once."""
        process = self._started()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group is gone already
        process.wait()

    def close(self) -> None:
        """Make sure that nothing of the worker is left."""
        if self._process is not None:
            self.kill()

    def _popen(self, output: IO[bytes] | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker was never started")
        return self._process


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure this project or Celery."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HERMES_TASKS_", "HONCHO_", "CELERY_"))
    }
