"""Worker processes that tests kill, stop and shut down; they are whole again for the next one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes_tasks.testing.workers import WorkerProcess, clean_environment

APP = "tests.integration.order.app"
ROOT = Path(__file__).parents[3]
SLOTS = 4


class Fleet:
    """Workers of one application.

    Args:
        settings: keyword arguments of ``make_app`` for every worker.
        logs: directory of the workers' logs.
        size: how many workers :meth:`heal` provides.
        arguments: what follows ``worker`` on their command lines.
    """

    def __init__(
        self, settings: Mapping[str, Any], logs: Path, *arguments: str, size: int = 2
    ) -> None:
        self.settings = dict(settings)
        self._logs = logs
        self._arguments = arguments or ("-c", str(SLOTS))
        self._size = size
        self._members: list[WorkerProcess] = []
        self._guests: list[WorkerProcess] = []

    def heal(self) -> list[WorkerProcess]:
        """The workers, started again where a test has ended or changed them."""
        for guest in self._guests:
            guest.close()
        self._guests.clear()
        for dead in [w for w in self._members if not w.is_running]:
            dead.close()
            self._members.remove(dead)
        fresh = [self._launch(*self._arguments) for _ in range(self._size - len(self._members))]
        self._members += fresh
        for worker in fresh:
            worker.wait_ready()
        return list(self._members)

    def start(self, *arguments: str, **conf: Any) -> WorkerProcess:
        """One more worker, for this test only, with settings of its own."""
        guest = self._launch(*(arguments or self._arguments), **conf)
        self._guests.append(guest)
        guest.wait_ready()
        return guest

    @property
    def members(self) -> list[WorkerProcess]:
        """The lasting workers, as they are now."""
        return list(self._members)

    def celery(self, *arguments: str) -> str:
        """What ``celery -A APP ARGUMENTS`` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", APP, *arguments],
            env=clean_environment() | self._env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def log(self) -> str:
        """Everything any worker has written to its log."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self._logs.glob("worker-*.log"))
        )

    def close(self) -> None:
        """End them all; :meth:`heal` starts new ones."""
        for worker in [*self._members, *self._guests]:
            worker.close()

    def _env(self, **conf: Any) -> dict[str, str]:
        return {
            "ORDER_APP": json.dumps(self.settings | conf),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def _launch(self, *arguments: str, **conf: Any) -> WorkerProcess:
        name = uuid.uuid4().hex[:8]
        worker = WorkerProcess(
            # Mingle asks the neighbours and waits a second for their answers.
            [*arguments, "-l", "INFO", "--without-mingle", "-n", f"{name}@order"],
            env=self._env(**conf),
            log=self._logs / f"worker-{name}.log",
            app=APP,
        )
        worker.launch()
        return worker


def node_name(worker: WorkerProcess) -> str:
    """The name under which ``inspect`` and ``control`` know a worker."""
    return worker.command[-1]


def pool_processes(worker: WorkerProcess) -> list[int]:
    """Process ids of a worker's pool, as it is now."""
    path = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    return [int(child) for child in path.read_text().split()]


def signal_group(worker: WorkerProcess, number: signal.Signals) -> None:
    """Send a signal to a worker's main process and its whole pool."""
    os.killpg(worker.pid, number)
