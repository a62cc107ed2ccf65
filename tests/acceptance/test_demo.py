"""`hermes-tasks demo`, as `make demo` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.workers import clean_environment

PROGRAM = Path(sys.executable).with_name("hermes-tasks")


def demo(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "demo"],
        env=clean_environment() | {"COLUMNS": "120"} | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_row(output: str) -> list[int]:
    (row,) = re.findall(r"^ *\d+(?: +\d+)+ *$", output, flags=re.MULTILINE)
    return [int(cell) for cell in row.split()]


def test_a_worker_is_killed_and_nothing_is_lost_doubled_or_out_of_order() -> None:
    result = demo()
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"^SIGKILL +process \d+, \d+ of 96 turns written$", result.stdout, re.MULTILINE
    )
    #               sessions, sent, written, lost, twice, out of order
    assert last_row(result.stdout) == [6, 96, 96, 0, 0, 0]


def test_a_honcho_of_one_s_own_is_used_and_what_does_not_arrive_is_counted() -> None:
    with HonchoServer() as honcho:
        honcho.control(fail=422, times=-1)
        # Of this one, too, it is known that a call is over soon.
        result = demo(
            HONCHO_URL=honcho.url,
            HERMES_TASKS_TIMEOUT_FLOOR="1",
            HERMES_TASKS_TIMEOUT_DEFAULT="2",
            HERMES_TASKS_TIMEOUT_CEILING="2",
            HERMES_TASKS_LANDING_SECONDS="1",
        )
        assert honcho.log() == []
    assert result.returncode == 1, result.stderr
    assert last_row(result.stdout) == [6, 96, 0, 96, 0, 0]
