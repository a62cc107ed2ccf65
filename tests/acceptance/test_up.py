"""`hermes-tasks up`: one process tree in the foreground, and nothing lost between two of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hermes_tasks import TurnSync
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment

PROGRAM = Path(sys.executable).with_name("hermes-tasks")


class Up:
    """A running `hermes-tasks up`."""

    def __init__(self, log: Path, *arguments: str, **env: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "up", *arguments],
                env=clean_environment() | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_ready(self) -> None:
        wait_until(lambda: " ready." in self.output, 30, f"up to be ready; {self._log}")

    def children(self) -> list[psutil.Process]:
        """All processes below it, whichever session or group they are in."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def up(tmp_path: Path, port: int) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str, **env: str) -> Up:
        number = len(started)
        if "--data-dir" not in arguments:
            arguments = ("--data-dir", str(tmp_path / "broker"), *arguments)
        running = Up(
            tmp_path / f"up-{number}.log",
            *arguments,
            HERMES_TASKS_BROKER_URL=f"redis://127.0.0.1:{port}/0",
            **env,
        )
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            for child in running.children():
                child.kill()
            running.process.kill()
            running.process.wait()


@contextmanager
def gateway(port: int, tmp_path: Path) -> Iterator[TurnSync]:
    url = f"redis://127.0.0.1:{port}/0"
    with TurnSync(broker_url=url, outbox_dir=tmp_path / "outbox") as sync:
        yield sync


def say(sync: TurnSync, text: str) -> None:
    sync.sync_turn(workspace="w", session="s", messages=[{"peer": "igor", "content": text}])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_turns_are_written_and_a_signal_ends_the_whole_tree(
    up: Callable[..., Up], port: int, tmp_path: Path, number: signal.Signals
) -> None:
    with HonchoServer() as honcho, gateway(port, tmp_path) as sync:
        running = up(HONCHO_URL=honcho.url)
        running.wait_ready()
        say(sync, "hi")
        assert sync.flush(workspace="w", session="s", timeout=20)
        assert [entry["content"] for entry in honcho.log()] == ["hi"]

        children = running.children()
        assert len(children) >= 2
        assert running.stop(number) == 0
        assert "Traceback" not in running.output
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive


def test_turns_of_a_killed_tree_are_written_by_the_next_on_the_same_directory(
    up: Callable[..., Up], port: int, tmp_path: Path
) -> None:
    with HonchoServer() as honcho, gateway(port, tmp_path) as sync:
        # Given turns that a broker accepted and no worker could write
        honcho.control(fail=503, times=-1)
        env = {
            "HONCHO_URL": honcho.url,
            "HERMES_TASKS_LEASE_SECONDS": "2",
            "HERMES_TASKS_TIMEOUT_CEILING": "4",
            "HERMES_TASKS_LANDING_SECONDS": "1",
        }
        first = up(**env)
        first.wait_ready()
        for text in ("one", "two", "three"):
            say(sync, text)
        wait_until(lambda: honcho.stats()["calls"].get("messages"), 20, "a first try")
        assert sync.close(timeout=10)

        # When all of it is killed, and started again on the same directory
        for process in [*first.children(), psutil.Process(first.process.pid)]:
            process.kill()
        first.process.wait()
        honcho.control(reset=True)
        second = up(**env)

        # I expect each turn once, in order
        wait_until(lambda: len(honcho.log()) >= 3, 30, "three turns to be written")
        assert [entry["content"] for entry in honcho.log()] == ["one", "two", "three"]
        assert second.stop() == 0


def test_a_second_up_on_the_same_directory_or_port_is_one_line(
    up: Callable[..., Up], port: int, tmp_path: Path
) -> None:
    honcho = "http://127.0.0.1:9"
    first = up(HONCHO_URL=honcho)
    first.wait_ready()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other_port = probe.getsockname()[1]
    same_directory = up("--port", str(other_port), HONCHO_URL=honcho)
    assert same_directory.process.wait(20) == 3
    assert f"error: the data directory {tmp_path / 'broker'} is in use" in same_directory.output

    same_port = up("--data-dir", str(tmp_path / "other"), HONCHO_URL=honcho)
    assert same_port.process.wait(20) == 3
    assert f"error: port {port} of 127.0.0.1 is in use" in same_port.output

    assert first.process.poll() is None


def test_a_worker_that_ends_by_itself_takes_the_tree_with_it(up: Callable[..., Up]) -> None:
    running = up(HONCHO_URL="http://127.0.0.1:9")
    running.wait_ready()
    children = running.children()
    (worker,) = [child for child in children if "celery" in " ".join(child.cmdline())]
    os.kill(worker.pid, signal.SIGKILL)

    assert running.process.wait(20) == 1
    assert "error: the worker ended with status -9" in running.output
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_broker_that_ends_by_itself_is_told(up: Callable[..., Up]) -> None:
    running = up(HONCHO_URL="http://127.0.0.1:9")
    running.wait_ready()
    (broker,) = [child for child in running.children() if "valkey" in child.name()]
    broker.kill()

    assert running.process.wait(20) == 3
    assert "error: the broker ended; its log is" in running.output
