"""Local processes in the place of pytest-celery's containers.

pytest-celery's nodes and clusters manage Docker containers. They ask little of one, and what they
ask, a process can do: so the same ``celery_setup`` tests run where there is no Docker engine::

    @pytest.fixture
    def celery_broker_cluster(server):
        return CeleryBrokerCluster(CeleryTestBroker(LocalServer(server)))
"""

from __future__ import annotations

import os
import signal as signals
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from hermes_tasks.testing.servers import Server
    from hermes_tasks.testing.workers import WorkerProcess

_ID_LENGTH = 12
"""How much of a container's id pytest-celery takes for its host name."""


class _LocalContainer:
    """What is common to all: an id, a name, and a process that may be running.

    Attributes:
        id: as long as Docker's; the first twelve characters are the node's host name.
        name: of the node, for messages.
    """

    def __init__(self, name: str) -> None:
        self.id = uuid4().hex
        self.name = f"{name}-{self.id[:_ID_LENGTH]}"

    @property
    def host(self) -> str:
        """The host name that pytest-celery's node goes by."""
        return self.id[:_ID_LENGTH]

    @property
    def status(self) -> str:
        """``running`` or ``exited``, in Docker's words."""
        return "running" if self._is_running() else "exited"

    def ready(self) -> bool:
        """Whether it runs."""
        return self._is_running()

    def reload(self) -> None:
        """Nothing to do: what is asked is always asked of the process itself."""

    def _is_running(self) -> bool:
        raise NotImplementedError


class LocalServer(_LocalContainer):
    """A broker or a result backend; ``database`` keeps the two apart on one server."""

    def __init__(self, server: Server, database: int = 0) -> None:
        super().__init__(server.name)
        self._server = server
        self._database = database

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """The URLs by which workers (``url``) and tests (``host_url``) reach it: the same here."""
        url = self._server.url.removesuffix("/0") + f"/{self._database}"
        return {"url": url, "host_url": url, "port": self._server.port, "vhost": self._database}

    def logs(self) -> str:
        """Its log, of all its starts."""
        return self._server.log_path.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it, with the data it had, and wait until it is ready."""
        self._server.start()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal; after SIGKILL the process is gone when this returns."""
        number = _number(signal)
        if number == signals.SIGKILL:
            self._server.kill()
        else:
            os.kill(self._server.pid, number)

    def restart(self, timeout: float = 10.0) -> None:
        """End it and start it again, with the data it had."""
        self._server.restart()

    def teardown(self) -> None:
        """Make sure that nothing of it is left."""
        self._server.stop()

    def _is_running(self) -> bool:
        return self._server.is_running


class LocalWorker(_LocalContainer):
    """A worker. Its process must be started with :meth:`hostname_option`, to be found by name."""

    def __init__(self, name: str = "hermes_tasks", queue: str = "{hermes}.run") -> None:
        super().__init__(name)
        self._worker_name = name
        self._queue = queue
        self._process: WorkerProcess | None = None

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """A worker has nothing to tell the others."""
        return {}

    def hostname_option(self) -> tuple[str, str]:
        """The option that names the Celery node as pytest-celery's node is named."""
        return "--hostname", f"{self._worker_name}@{self.host}"

    def run(self, process: WorkerProcess) -> LocalWorker:
        """Take over a process, running or not yet; returns the container itself."""
        self._process = process
        return self

    def version(self) -> str:
        """Version of its Celery."""
        return version("celery")

    def log_level(self) -> str:
        """Its log level."""
        return "INFO"

    def worker_name(self) -> str:
        """First part of its node name."""
        return self._worker_name

    def worker_queue(self) -> str:
        """The queue it consumes."""
        return self._queue

    def logs(self) -> str:
        """What it has written since its last start."""
        return self._owned().log

    def ready(self) -> bool:
        """Wait until it consumes; ``False`` when it does not run."""
        if self._is_running():
            self._owned().wait_ready()
        return self._is_running()

    def start(self) -> None:
        """Start it and wait until it consumes."""
        self._owned().start()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to its main process and wait for its end; SIGKILL takes its pool too."""
        number = _number(signal)
        if number == signals.SIGKILL:
            self._owned().kill()
        else:
            self._owned().send(number)
            self._owned().wait()

    def restart(self, timeout: float = 30.0) -> None:
        """Shut it down warm, if it runs, and start it again."""
        if self._is_running():
            self._owned().stop(timeout)
        self.start()

    def teardown(self) -> None:
        """Make sure that nothing of it is left."""
        self._owned().close()

    def _is_running(self) -> bool:
        return self._owned().is_running

    def _owned(self) -> WorkerProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} has no process yet")
        return self._process


def _number(signal: str | int) -> signals.Signals:
    return signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
