"""One run of a contender: an empty server, its workers, a sender, and what became of the turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from benchmarks.peers import Peer
from benchmarks.placing import Placement, place
from benchmarks.postgres import PostgresServer
from benchmarks.sender import nearest_rank
from hermes_tasks.gate import Policy
from hermes_tasks.ops.overview import Overview, read_overview
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment
from hermes_tasks.transport import SessionStore

#: The longest a run may take before it counts as stuck, in seconds.
STUCK = 120.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender says: seconds in all, of its CPU, and of each call."""

    seconds: float
    cpu: float
    took: list[float]

    def quantile(self, share: float) -> float:
        """Nearest-rank quantile of the calls, in seconds."""
        return nearest_rank(self.took, share)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, in order: session, number within it, and seconds of the monotonic clock."""

    lines: tuple[tuple[str, int, float], ...]

    @property
    def distinct(self) -> set[tuple[str, int]]:
        """The turns that were written."""
        return {(session, number) for session, number, _ in self.lines}

    @property
    def twice(self) -> int:
        """Writes beyond the first of a turn."""
        return len(self.lines) - len(self.distinct)

    @property
    def out_of_order(self) -> int:
        """Sessions of which a turn was first written after a later one was."""
        latest: dict[str, int] = {}
        seen: set[tuple[str, int]] = set()
        wrong: set[str] = set()
        for session, number, _ in self.lines:
            if (session, number) not in seen and number < latest.get(session, -1):
                wrong.add(session)
            seen.add((session, number))
            latest[session] = max(number, latest.get(session, -1))
        return len(wrong)

    def rate(self, call: float = 0.0) -> float:
        """Turns a second from the begin of the first call, which took ``call`` s, to the last."""
        first, last = self.lines[0][2], self.lines[-1][2]
        return len(self.lines) / (last - first + call)

    def fairness(self) -> float:
        """Jain's index over sessions of what was written at half time (R. Jain et al., 1984)."""
        first, last = self.lines[0][2], self.lines[-1][2]
        counts = Counter(session for session, _, at in self.lines if at <= (first + last) / 2)
        every = {session for session, _, _ in self.lines}
        values = [counts[session] for session in every]
        return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


class World:
    """A contender at work, for the length of a ``with`` block.

    Args:
        peer: the contender.
        latency: of the stand-in that its tasks write to, in seconds or as its faults take it;
            ``None``: they write nowhere.
        slots: turns that one worker writes at a time, where it has so many.
        pool: of Celery's workers, ``threads`` or ``prefork``.
        env: more environment variables, for senders and workers.
        placement: of senders and server; ``None``: wherever the system puts them.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        latency: Any = None,
        slots: int = 32,
        pool: str = "threads",
        env: dict[str, str] | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.peer = peer
        self.slots = min(slots, peer.slots)
        self._latency = latency
        self._pool = pool
        self._more_env = env or {}
        self._stack = ExitStack()
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self._placement = placement
        self._written = 0
        self._read = 0

    def __enter__(self) -> Self:
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._env = clean_environment() | {
            "BENCH_RECORD": str(self._record),
            "BENCH_SLOTS": str(self.slots),
            "BENCH_BROKER": self.server.url if self.peer.store else "",
            "HERMES_TASKS_BROKER_URL": self.server.url if self.peer.store == "redis" else "",
            # All that a run sends waits, and none is given up: it is the queue that is measured.
            "HERMES_TASKS_QUEUE_LIMIT": "100000",
            "HONCHO_URL": "http://127.0.0.1:9",
            **self.peer.env,
        }
        if self._latency is not None:
            self.honcho = self._stack.enter_context(HonchoServer())
            self.honcho.control(latency=self._latency)
            self._env |= {"BENCH_HONCHO": self.honcho.url, "HONCHO_URL": self.honcho.url}
        self._env |= self._more_env
        self._record.touch()
        if self.peer.store == "postgres":
            self._command((*self.peer.command[:5], "schema", "--apply"))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            _kill(worker)
        self._stack.close()

    @cached_property
    def server(self) -> Any:
        """The contender's server, empty."""
        kind = PostgresServer if self.peer.store == "postgres" else EmbeddedValkey
        return self._stack.enter_context(kind())

    def _server_pids(self) -> list[int]:
        server = self.server
        return server.pids() if isinstance(server, PostgresServer) else [server.pid]

    @property
    def _record(self) -> Path:
        return self._directory / "written"

    # -- workers -------------------------------------------------------------------------------

    def start(self, processes: int = 1) -> None:
        """Start workers, as many as the contender needs if that is more."""
        for _ in range(max(processes, self.peer.shards) if self.peer.store else 0):
            # Of shards, those of a worker that was killed are its successor's.
            number = self._started % self.peer.shards if self.peer.shards else self._started
            self._started += 1
            words = {"slots": self.slots, "worker": number, "pool": self._pool}
            log = (self._directory / f"worker-{number}.log").open("ab")
            self.workers.append(
                subprocess.Popen(
                    [part.format(**words) for part in self.peer.command],
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
            log.close()

    def wait_consuming(self, workers: int) -> None:
        """Wait until so many of our workers say that they take turns."""
        self._wait_until(
            lambda seen: sum(one.consuming for one in seen.workers) >= workers,
            f"{workers} workers that take turns",
        )

    def wait_settled(self) -> None:
        """Wait until our workers have settled all that was sent."""
        self._wait_until(lambda seen: not seen.unsettled, "all turns to be settled")

    def _wait_until(self, condition: Callable[[Overview], bool], what: str) -> None:
        with self.server.client() as client:
            store = SessionStore(client)
            wait_until(lambda: condition(read_overview(store, Policy())), STUCK, what)

    def signal(self, number: signal.Signals) -> None:
        """Send all workers, and what they started, a signal."""
        for worker in self.workers:
            os.killpg(worker.pid, number)

    def kill(self, *workers: subprocess.Popen[bytes]) -> None:
        """SIGKILL to these workers, or to all, and to what they started."""
        for worker in workers or tuple(self.workers):
            _kill(worker)
            self.workers.remove(worker)

    def log(self) -> str:
        """What its workers have said."""
        return "".join(path.read_text() for path in sorted(self._directory.glob("*.log")))

    # -- turns ---------------------------------------------------------------------------------

    def sender(self) -> Sender:
        """A sender that is ready."""
        sender = Sender(self.peer.module, self._env)
        self._stack.callback(sender.close)
        if self._placement is not None:
            self.place(sender, self._placement)
        return sender

    def place(self, sender: Sender, placement: Placement) -> None:
        """Put a sender and the server, if there is one, where they shall run."""
        place(sender.pid, placement.client)
        if self.peer.store:
            for pid in self._server_pids():
                place(pid, placement.server)

    def send(self, **options: Any) -> Sent:
        """Send turns, and wait until all of them are on the server: see :meth:`Sender.go`."""
        sender = self.sender()
        sent = sender.go(**options)
        sender.close()
        return sent

    def count(self) -> int:
        """Turns written so far, without those that warmed the sender up."""
        with self._record.open("rb") as record:
            record.seek(self._read)
            whole, line_end, _ = record.read().rpartition(b"\n")
        lines = whole.splitlines()
        self._read += len(whole) + len(line_end)
        self._written += sum(not line.startswith(b"warm") for line in lines)
        return self._written

    def http_seconds(self) -> float:
        """CPU seconds of the requests so far, with ``BENCH_HTTP_TIME`` in the environment."""
        times = Path(f"{self._record}.http")
        return sum(map(float, times.read_text().split())) if times.exists() else 0.0

    def written(self) -> Written:
        """What the tasks say they have written."""
        lines = [line.decode().split() for line in self._lines() if not line.startswith(b"warm")]
        return Written(
            tuple((session, int(turn.rpartition("-")[2]), float(at)) for session, turn, at in lines)
        )

    def stored(self) -> Written:
        """What the stand-in stores, in its order, without times."""
        return Written(
            tuple(
                (entry["session"], int(entry["metadata"]["turn_id"].rpartition("-")[2]), 0.0)
                for entry in self.honcho.log()
                if entry["metadata"]["part"] == entry["metadata"]["parts"] - 1
                and not entry["session"].startswith("warm")
            )
        )

    def _lines(self) -> list[bytes]:
        return self._record.read_bytes().splitlines()

    def wait(self, total: int, limit: float = STUCK) -> bool:
        """Wait until so many turns are written; ``False``: not within ``limit`` seconds."""
        give_up = time.monotonic() + limit
        while self.count() < total:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.01)
        return True

    def _command(self, command: Sequence[str]) -> None:
        subprocess.run(command, env=self._env, check=True, stdout=subprocess.DEVNULL)


class Sender:
    """A sender process: see :mod:`benchmarks.sender`."""

    def __init__(self, module: str, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sender", module],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._line() != "ready":
            raise RuntimeError(f"the sender of {module} did not start; its error is above")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def go(
        self,
        *,
        sessions: int,
        turns: int,
        size: int = 1_000,
        name: str = "s",
        pace: float = 0.0,
        limit: float = STUCK,
        join: bool = True,
    ) -> Sent:
        """Send turns.

        Args:
            sessions: that they are of, in turn.
            turns: of each session.
            size: bytes of each turn's text.
            name: first part of the sessions' names.
            pace: seconds between two calls.
            limit: seconds after which a call that has not returned is given up.
            join: end when all turns are on the server, if none was given up.
        """
        asked = {"sessions": sessions, "count": turns, "size": size, "name": name}
        assert self._process.stdin is not None
        how = {"pace": pace, "limit": limit, "join": join}
        self._process.stdin.write(json.dumps({**asked, **how}) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._line())
        return Sent(found["seconds"], found["cpu"], found["took"])

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the sender has ended; its error is above")
        return line


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is gone already
    process.wait()


__all__ = ["Sender", "Sent", "World", "Written"]
