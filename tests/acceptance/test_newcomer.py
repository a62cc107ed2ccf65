"""Following the README: `make up` and one more command, and turns flow in Flower's tab."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

import psutil
import pytest

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment

PROJECT = Path(__file__).parents[2]

pytest.importorskip("flower")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def typed(line: str, output: IO[bytes], env: dict[str, str]) -> Iterator[None]:
    """A `make` of the README in a terminal of its own, until Ctrl-C."""
    program, *arguments = line.split()
    assert program == "make"
    # The tests' own environment is installed already: what it takes is no part of this.
    installed = [f"VENV={sys.prefix}", "--old-file", f"{sys.prefix}/.installed"]
    with subprocess.Popen(
        [program, *arguments, *installed],
        cwd=PROJECT,
        env=clean_environment() | env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            for child in children:
                # As a terminal does: to make and to what it runs, not to what that keeps apart.
                if child.ppid() == process.pid:
                    child.send_signal(signal.SIGINT)
            _, alive = psutil.wait_procs(children, timeout=60)
            for child in alive:
                child.kill()
            assert not alive


def test_the_tab_shows_turns_that_flow(tmp_path: Path) -> None:
    # Given the commands that the README has for it
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```console\n(\$ make up\b.*?)```", readme, flags=re.DOTALL)
    lines = [line.split("#")[0].removeprefix("$ ") for line in block.splitlines()]
    assert len(lines) == 2
    (path,) = re.findall(r"http://127\.0\.0\.1:5555(/\S*)", block)

    # When they are typed where the usual ports may be taken
    port = free_port()
    env = {
        "HERMES_TASKS_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "FLOWER_PORT": str(port),
    }

    def answer(path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                body: bytes = response.read()
                return body
        except (URLError, ConnectionError, TimeoutError):
            return b""

    def written() -> int:
        found: dict[str, Any] = json.loads(answer("/sessions/data") or "{}")
        return int(found.get("overview", {}).get("written", 0))

    with ExitStack() as stack:
        for number, line in enumerate(lines):
            output = stack.enter_context((tmp_path / f"terminal-{number}.log").open("wb"))
            stack.enter_context(typed(line, output, env))

        # I expect the page, and that more and more turns are written
        wait_until(lambda: b"Sessions" in answer(path), 60, f"the page {path}; see {tmp_path}")
        wait_until(lambda: written() > 0, 60, f"turns to be written; see {tmp_path}")
        before = written()
        wait_until(lambda: written() > before, 30, "more turns to be written")
    for log in tmp_path.glob("terminal-*.log"):
        assert b"Traceback" not in log.read_bytes()
