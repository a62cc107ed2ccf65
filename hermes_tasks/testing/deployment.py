"""A whole deployment in processes of its own: workers between a broker and the stand-in.

It remembers every turn it sent, so that in the end it can be asked what became of them.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hermes_tasks.app import TASK, make_app
from hermes_tasks.config import Settings, environment_variable
from hermes_tasks.gate import Gate, Policy, State
from hermes_tasks.testing.audit import Audit, audit
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from hermes_tasks.transport.keeper import private_store
from hermes_tasks.turns import DEFAULT_BACKEND, Turn, session_key

TEXT = "All work and no play makes a queue a dull place to wait in. " * 8
"""What is said in a turn; two messages of it make about 1 KB."""


@dataclass(frozen=True, slots=True)
class Look:
    """The deployment at one instant.

    Attributes:
        at: seconds of :func:`time.monotonic`.
        state: of the breaker.
        leases: sessions that a worker has, each in a slot of its own.
        calls: in flight, as the gate knows.
        ready, sleeping, held: sessions that wait for a worker, for a time, for the gate.
        written: turns settled so far.
    """

    at: float
    state: State
    leases: int
    calls: int
    ready: int
    sleeping: int
    held: int
    written: int

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way."""
        return not (self.leases or self.calls or self.ready or self.sleeping or self.held)


class Deployment:
    """Workers of one prefix, and the turns that are sent to them.

    Args:
        broker: a running server; two deployments on one need different prefixes.
        honcho: a stand-in, which may be down at times.
        workspace: of every turn; the gate is one per workspace.
        logs: directory of the workers' logs; a temporary one unless given.
        settings: fields of :class:`~hermes_tasks.config.Settings`, for senders and workers alike.
    """

    def __init__(
        self,
        broker: Server,
        honcho: HonchoServer,
        *,
        workspace: str = "w",
        logs: Path | None = None,
        **settings: Any,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory() if logs is None else None
        self._logs = Path(self._temporary.name) if self._temporary else logs or Path()
        self.honcho = honcho
        self.settings = Settings.load(broker_url=broker.url, **settings)
        self._env = {
            "HONCHO_URL": honcho.url,
            "HERMES_TASKS_BROKER_URL": broker.url,
            **{environment_variable(name): str(value) for name, value in settings.items()},
        }
        self.workspace = workspace
        self.workers: list[WorkerProcess] = []
        self.app = make_app(self.settings, set_as_current=False)
        with self.app.connection_for_write() as connection:
            self.store = private_store(connection)
        name = f"{DEFAULT_BACKEND}:{workspace}"
        self.gate = Gate(self.store, Policy.from_settings(self.settings), name)
        self.sent: dict[str, list[str]] = defaultdict(list)

    # -- workers -------------------------------------------------------------------------------

    def start(self, count: int, *arguments: str, **env: str) -> list[WorkerProcess]:
        """Start workers, and wait until they consume.

        Args:
            count: how many.
            arguments: what follows ``worker`` on their command lines, by default two slots.
            env: environment variables of these workers only.
        """
        fresh: list[WorkerProcess] = []
        for _ in range(count):
            name = uuid.uuid4().hex[:8]
            worker = WorkerProcess(
                # Mingle asks the neighbours and waits a second for their answers.
                [*(arguments or ("-c", "2")), "--without-mingle", "-n", f"{name}@deployment"],
                env=self._env | env,
                log=self._logs / f"worker-{name}.log",
            )
            worker.launch()
            fresh.append(worker)
        self.workers += fresh
        for worker in fresh:
            worker.wait_ready()
        return fresh

    def log(self, since: Mapping[Path, int] | None = None) -> str:
        """Everything that any worker of it has written to its log, or has ``since`` then."""
        since = since or {}
        return "".join(
            path.read_bytes()[since.get(path, 0) :].decode(errors="replace")
            for path in sorted(self._logs.glob("worker-*"))
        )

    def logged(self) -> dict[Path, int]:
        """How far each log is now, to be given to :meth:`log` later."""
        return {path: path.stat().st_size for path in self._logs.glob("worker-*")}

    def close(self) -> None:
        """End the workers and the connections."""
        for worker in self.workers:
            worker.close()
        self.store.client.close()
        self.store.client.connection_pool.disconnect()
        self.app.close()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- turns ---------------------------------------------------------------------------------

    def sessions(self, count: int) -> list[str]:
        """Names of sessions that nobody has used."""
        name = uuid.uuid4().hex[:6]
        return [f"{name}-{index}" for index in range(count)]

    def send(self, sessions: Iterable[str], turns: int = 1) -> None:
        """Send turns of two messages, the sessions interleaved."""
        sessions = list(sessions)
        task = self.app.tasks[TASK]
        with self.app.producer_or_acquire() as producer:
            for _ in range(turns):
                for session in sessions:
                    turn = self._turn(session)
                    task.apply_async((turn.to_json(),), producer=producer)
                    self.sent[session].append(turn.turn_id)

    def _turn(self, session: str) -> Turn:
        index = len(self.sent[session])
        return Turn.create(
            self.workspace,
            session,
            [{"peer": "user", "content": f"{index}: {TEXT}"}, {"peer": "agent", "content": TEXT}],
            turn_id=f"{session}-t{index}",
        )

    def key(self, session: str) -> str:
        """The name of a session among those of all workspaces."""
        return session_key(DEFAULT_BACKEND, self.workspace, session)

    @property
    def size(self) -> int:
        """How many turns were sent."""
        return sum(map(len, self.sent.values()))

    @property
    def settled(self) -> int:
        """How many turns were written or given up."""
        counters = self.store.counters()
        dead = sum(n for name, n in counters.items() if name.startswith("dead:"))
        return counters.get("written", 0) + dead

    def wait_until_written(self, timeout: float) -> None:
        """Wait until every turn sent so far is settled."""
        wait_until(lambda: self.settled >= self.size, timeout, f"{self.size} turns to be settled")

    def audit(self, sessions: Iterable[str] | None = None) -> Audit:
        """What the stand-in stores of the turns sent: all of them, or those of some sessions.

        A turn is known by its last message: Honcho stores a call as a whole.
        """
        wanted = self.sent if sessions is None else {s: self.sent[s] for s in sessions}
        stored: dict[str, list[str]] = defaultdict(list)
        for entry in self.honcho.log(workspace=self.workspace):
            metadata = entry["metadata"]
            if entry["session"] in wanted and metadata["part"] == metadata["parts"] - 1:
                stored[entry["session"]].append(metadata["turn_id"])
        return audit(wanted, stored)

    # -- the gate ------------------------------------------------------------------------------

    def look(self) -> Look:
        """The deployment as it is at one instant."""
        names = self.store.names
        hash_, held, calls, *_ = names.gate(self.gate.name)
        seconds, micros = self.store.client.time()
        with self.store.client.pipeline(transaction=True) as pipe:
            pipe.hget(hash_, "state")
            pipe.zcard(names.leases)
            # Those whose time is over stay there until the gate is asked again.
            pipe.zcount(calls, seconds * 1000 + micros // 1000, "+inf")
            for key in (names.ready, names.sleeping):
                pipe.zcard(key)
            pipe.llen(held)
            pipe.hget(names.stats, "written")
            state, leases, calls_now, ready, sleeping, held_now, written = pipe.execute()
        return Look(
            at=time.monotonic(),
            state=State(state.decode()) if state else State.CLOSED,
            leases=leases,
            calls=calls_now,
            ready=ready,
            sleeping=sleeping,
            held=held_now,
            written=int(written or 0),
        )

    def probes(self) -> int:
        """How many probes were made so far."""
        return self.gate.status().counters["probes"]

    def calls(self) -> int:
        """How many calls the stand-in got so far."""
        return sum(self.honcho.stats()["calls"].values())


def probes_due(seconds: float, interval: float, longest: float = 600.0) -> int:
    """The most probes that may be made in so long after opening, by their schedule.

    Args:
        seconds: since the breaker opened.
        interval: to the first probe; doubled by each that fails. Jitter takes at most a tenth.
        longest: that it grows to.
    """
    probes, at = 0, 0.9 * interval
    while at <= seconds:
        probes += 1
        interval = min(2 * interval, longest)
        at += 0.9 * interval
    return probes
