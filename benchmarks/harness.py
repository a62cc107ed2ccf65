"""What every measurement needs: a server, workers, interleaved runs and a line of result."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes_tasks.config import Settings
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.workers import WorkerProcess
from hermes_tasks.turns import Turn

#: A turn of about 1 KB, as facts about gateways have it.
TEXT = "All work and no play makes a queue a dull place to wait in. " * 8

#: The longest a run may take before it counts as stuck, in seconds.
STUCK = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """Measured values of one contender, in the order of the runs."""

    name: str
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:10,.1f}  ({min(self.values):,.1f} to {max(self.values):,.1f})"


def interleaved(runs: int, contenders: Mapping[str, Callable[[], float]]) -> list[Result]:
    """Run the contenders in turn, ``runs`` times each, so that noise meets all of them alike."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            values[name].append(run())
    return [Result(name, found) for name, found in values.items()]


@contextmanager
def empty_server() -> Iterator[Server]:
    """A fresh embedded Valkey for one run, without persistence."""
    with EmbeddedValkey() as server:
        yield server


@contextmanager
def worker(
    arguments: Sequence[str], env: Mapping[str, str], app: str = "hermes_tasks"
) -> Iterator[WorkerProcess]:
    """A worker process, starting; killed at the end."""
    with tempfile.TemporaryDirectory() as directory:
        process = WorkerProcess(arguments, env=env, log=Path(directory, "worker.log"), app=app)
        process.launch()
        try:
            yield process
        finally:
            process.close()


def settings_for(url: str, **values: object) -> Settings:
    """Settings of a deployment under test."""
    return Settings.load(broker_url=url, **values)


def turn_of(session: int, index: int) -> Turn:
    """The ``index``-th turn of a session: two messages, about 1 KB."""
    return Turn.create(
        "bench",
        f"session-{session}",
        [{"peer": "user", "content": f"{index}: {TEXT}"}, {"peer": "agent", "content": TEXT}],
        turn_id=f"s{session}-t{index}",
    )


def timed_drain(done: Callable[[], int], total: int, poll: float = 0.002) -> float:
    """Seconds from the first finished message to the last; ``done`` counts the finished ones."""
    give_up = time.monotonic() + STUCK
    first: float | None = None
    start = 0
    while True:
        count, now = done(), time.monotonic()
        if first is None and count:
            first, start = now, count
        if count >= total:
            break
        if now > give_up:
            raise TimeoutError(f"{count} of {total} done after {STUCK:.0f} s")
        time.sleep(poll)
    assert first is not None
    # What was finished at the first look took no measured time.
    return (time.monotonic() - first) * total / max(1, total - start)
