"""``hermes-tasks up``: a broker and a worker in the foreground, all that one machine needs."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.environment import environment_of
from hermes_tasks.config import Settings
from hermes_tasks.errors import BrokerUnavailable, ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from hermes_tasks.testing.servers import Server
    from hermes_tasks.testing.workers import WorkerProcess

_LOCAL = {"127.0.0.1", "localhost", "::1"}
_DEFAULT_PORT = 6379

_WORKER_STOP_SECONDS = 45.0
"""A worker that is told to stop finishes its calls first: their deadline (30 s) and a margin."""

_LOOK_SECONDS = 0.2

_DEMO_LATENCY = {"median": 0.3, "sigma": 0.5}
"""What a call to the stand-in takes, in seconds."""


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the broker keeps its turns.  [env: HERMES_TASKS_DATA_DIR]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the broker.  [default: that of HERMES_TASKS_BROKER_URL]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Sessions written at the same time.",
)
@click.option(
    "--demo",
    is_flag=True,
    help="Write to a stand-in for Honcho, and let somebody talk; nothing is kept.",
)
def up(data_dir: Path | None, port: int | None, concurrency: int, demo: bool) -> None:
    """Run a broker and a worker in the foreground until Ctrl-C.

    The broker (Valkey, of the extra `embedded`) listens on 127.0.0.1 only and appends every turn to
    a file in its data directory: a restart goes on where it was. The worker writes to HONCHO_URL.
    Ctrl-C, or SIGTERM, lets the worker finish what it writes; a second one does not.

    With --demo there need be no Honcho, and something to look at: a bundled conversation is said
    over and over. The broker's directory is then a temporary one unless --data-dir names it.

    \b
    Exit status:
      0  stopped by Ctrl-C or SIGTERM
      1  the worker ended by itself
      2  a setting is missing (such as HONCHO_URL) or cannot be used
      3  port or data directory are in use, or the broker ended by itself
    """
    from hermes_tasks.testing.servers import EmbeddedValkey
    from hermes_tasks.testing.workers import WorkerProcess

    settings = Settings.load(data_dir=data_dir)
    if demo:
        _check_demo()
    else:
        settings.require_honcho_url()
    broker = EmbeddedValkey(
        data_dir if demo else settings.data_dir,
        port=port or _local_port(settings),
        password=_password(settings),
    )
    with _stop_signals() as stop, ExitStack() as stack:
        stack.enter_context(broker)
        click.echo(
            f"broker on port {broker.port} of 127.0.0.1, its turns in {broker.data_dir}", err=True
        )
        if demo:
            settings = _demo(settings, broker, stack)
        worker = WorkerProcess(
            ["--pool", "threads", "--concurrency", str(concurrency)],
            env=environment_of(settings) | {"HERMES_TASKS_BROKER_URL": _url(settings, broker)},
            log=None,
        )
        try:
            worker.launch()
            status = _watch(worker, broker, stop)
        finally:
            worker.close()
    raise click.exceptions.Exit(status)


def _check_demo() -> None:
    """Say what is missing before anything is started."""
    if not all(map(find_spec, ("honcho", "httpx", "starlette", "uvicorn"))):
        raise MissingExtra("--demo needs: pip install 'hermes-tasks[worker,embedded,testing]'")


def _demo(settings: Settings, broker: Server, stack: ExitStack) -> Settings:
    """Start a stand-in for Honcho and somebody who talks; the settings with which it is written."""
    from hermes_tasks.cli.talk import Talk
    from hermes_tasks.testing.honcho import HonchoServer

    honcho = stack.enter_context(HonchoServer())
    honcho.control(latency=_DEMO_LATENCY)
    click.echo(f"stand-in for Honcho at {honcho.url}; somebody talks", err=True)
    settings = settings.model_copy(
        update={"broker_url": _url(settings, broker), "honcho_url": honcho.url}
    )
    stack.enter_context(Talk(settings))
    return settings


def _watch(worker: WorkerProcess, broker: Server, stop: _Stop) -> int:
    """Wait until something ends; the exit status."""
    while not stop.asked.wait(_LOOK_SECONDS):
        if not worker.is_running:
            click.echo(f"error: the worker ended with status {worker.wait()}", err=True)
            return group.INCOMPLETE
        if not broker.is_running:
            raise BrokerUnavailable(f"the broker ended; its log is {broker.log_path}")
    click.echo("stopping: the worker finishes what it writes", err=True)
    worker.send(signal.SIGTERM)
    waited = 0.0
    while waited < _WORKER_STOP_SECONDS and not stop.twice.is_set():
        try:
            worker.wait(_LOOK_SECONDS)
            break
        except subprocess.TimeoutExpired:
            waited += _LOOK_SECONDS
    # What a killed worker had not finished stays in the broker's file, for the next start.
    click.echo("stopped", err=True)
    return 0


class _Stop:
    """That someone asked to stop, once or twice."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.twice = threading.Event()

    def __call__(self, *_: object) -> None:
        (self.twice if self.asked.is_set() else self.asked).set()


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _local_port(settings: Settings) -> int:
    """The port on which gateways of this machine look for their broker."""
    url = urlsplit(settings.broker_url)
    if url.scheme != "redis" or url.hostname not in _LOCAL:
        raise ConfigurationError(
            f"HERMES_TASKS_BROKER_URL is {settings.safe_broker_url}, but `up` runs a broker of its "
            "own on 127.0.0.1: unset it, or run `celery -A hermes_tasks worker` instead"
        )
    return url.port or _DEFAULT_PORT


def _password(settings: Settings) -> str | None:
    password = urlsplit(settings.broker_url).password
    return None if password is None else unquote(password)


def _url(settings: Settings, broker: Server) -> str:
    """The broker that really runs, with the database that gateways use."""
    return broker.url.removesuffix("/0") + (urlsplit(settings.broker_url).path or "/0")
