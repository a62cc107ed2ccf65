"""A deployment whose every process and link can be hurt: gateways, workers, Redis, the stand-in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import redis

from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.proxy import Link, Links, Request
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess, clean_environment
from tests.chaos.clock import Clock
from tests.chaos.history import Call, Depth, Landing, Letter, Limits, Offer, offers_of

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
PREFIX = WORKSPACE = "chaos"
KEY = "a-key-of-no-value"
POOLS = {"prefork": ("-c", "2"), "threads": ("-P", "threads", "-c", "2")}
WELL = {"reset": True, "api_key": KEY, "latency": {"median": 0.06, "sigma": 1.0}}
"""What the stand-in is told on a good day: calls take their time, and much happens meanwhile."""

_MARK = re.compile(r"([a-z0-9]+-[0-9]+)#([0-9]+) ")
_WRITES = re.compile(r"POST /v\d+/workspaces/\w+/(?:sessions/([\w-]+)/messages|conclusions) HTTP")
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a deployment is, how busy, and what it is told.

    Attributes:
        gateways: names.
        workers: pools by name.
        sessions: that each gateway has for itself, and that all of them share.
        rate: turns a second of each gateway.
        conclusions: share of them that are conclusions.
        settings: fields of the product's settings, beyond ``limits``.
        broken: the switch of :mod:`~tests.chaos.broken` that is turned, if any.
    """

    limits: Limits
    gateways: tuple[str, ...] = ("g1", "g2")
    workers: Mapping[str, str] = field(
        default_factory=lambda: {"w1": "prefork", "w2": "prefork", "w3": "threads"}
    )
    own: int = 8
    shared: int = 4
    rate: float = 2.0
    conclusions: float = 0.1
    settings: Mapping[str, object] = field(default_factory=lambda: {"timeout_floor": 0.7})
    broken: str = ""

    def sessions_of(self, gateway: str) -> list[str]:
        """The sessions that a gateway has turns for."""
        mine = [f"{gateway}s{index}" for index in range(self.own)]
        ours = [f"s{index}" for index in range(self.shared)]
        return [*ours[:1], *mine, *ours[1:]]

    @property
    def sessions(self) -> list[str]:
        """All of them."""
        return sorted({session for name in self.gateways for session in self.sessions_of(name)})


LIMITS = Limits(
    lease=3.0,
    ceiling=2.0,
    landing=3.0,
    probe=1.0,
    queue=16,
    backlog=256,
    reasons=frozenset({"poison", "refused"}),
)
"""Of the usual run: short, so that a minute holds many faults and what follows from each."""


class Gateway:
    """A gateway process and its link to Redis."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path, redis: Link) -> None:
        self.redis = redis
        self._command = command
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, again if need be, and do not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it is gone."""
        if self._process is not None and self.is_running:
            self._process.send_signal(number)

    def end(self, timeout: float) -> None:
        """Let it end in its own time, at most ``timeout`` seconds; then by force."""
        if self._process is None:
            return
        self.send(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Worker:
    """A worker, its links to Redis and to the stand-in, and its wall clock."""

    def __init__(self, process: WorkerProcess, redis: Link, honcho: Link, clock: Clock) -> None:
        self.process = process
        self.redis = redis
        self.honcho = honcho
        self.clock = clock

    def launch(self) -> None:
        """Start it, again if need be, and do not wait."""
        self.process.launch()

    @property
    def is_running(self) -> bool:
        return self.process.is_running

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and its pool, unless it is gone."""
        if self.is_running:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it and its pool at once."""
        self.process.close()

    def end(self, timeout: float) -> None:
        """Shut it down warm within ``timeout`` seconds; then by force."""
        if self.is_running:
            self.process.send(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill_child(self) -> None:
        """Kill one process of its pool, if it has any."""
        if self.is_running:
            children = psutil.Process(self.process.pid).children()
            if children:
                children[0].kill()


class Cluster:
    """The deployment.

    Args:
        shape: how large it is.
        seed: of what the gateways say.
        directory: of logs, outboxes, receipts and the stand-in's journal.
    """

    def __init__(self, shape: Shape, seed: int, directory: Path) -> None:
        self.shape = shape
        self.directory = directory
        self._quiet = directory / "quiet"
        self._seed = seed
        self._journal = directory / "honcho.jsonl"
        self.redis = EmbeddedValkey(directory / "redis")
        self.honcho = HonchoServer(api_key=KEY, journal=self._journal)
        self._links = Links()
        self.links: dict[str, Link] = {}
        self.workers: dict[str, Worker] = {}
        self.gateways: dict[str, Gateway] = {}
        self._watch: _Watch | None = None

    # -- its life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything, the gateways last, when the workers are ready."""
        self.redis.start()
        self.honcho.start()
        self.honcho.control(**WELL)
        self._watch = _Watch(self.redis, self.shape.sessions)
        for name, pool in self.shape.workers.items():
            self.workers[name] = self._worker(name, pool)
            self.workers[name].launch()
        for worker in self.workers.values():
            worker.process.wait_ready(60)
        for name in self.shape.gateways:
            self.gateways[name] = self._gateway(name)
            self.gateways[name].launch()
        wait_until(self._is_busy, 60, "every gateway to have accepted a turn", interval=0.1)
        return self

    def quieten(self) -> None:
        """Let the gateways make no more turns."""
        self._quiet.touch()

    def close(self) -> None:
        """End everything that is still there."""
        for process in self.processes.values():
            process.kill()
        if self._watch is not None:
            self._watch.close()
        self.honcho.stop()
        self.redis.stop()
        self._links.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def processes(self) -> dict[str, Worker | Gateway]:
        """Gateways and workers by name."""
        return {**self.gateways, **self.workers}

    def links_of(self, target: str) -> list[Link]:
        """The link ``worker>server``, or with ``*`` for the process all that lead to a server."""
        process, _, server = target.partition(">")
        return [
            link
            for name, link in self.links.items()
            if name == target or (process == "*" and name.endswith(f">{server}"))
        ]

    def lose_power(self, seconds: float) -> None:
        """Kill Redis, and with it what it had written within the last seconds."""
        assert self._watch is not None
        self.redis.kill()
        file, size = self._watch.file_before(time.monotonic() - seconds)
        # A restart within may have cut off half a command: longer, it would end in zeros.
        os.truncate(file, min(size, file.stat().st_size))

    # -- what it has to say --------------------------------------------------------------------

    def offers(self) -> list[Offer]:
        """What the gateways offered and were told, by the order of each."""
        return [
            offer
            for name in self.shape.gateways
            for offer in offers_of(name, _lines(self._receipts(name)))
        ]

    def landings(self) -> list[Landing]:
        """What the stand-in stored, in its order, as its journal has it."""
        begun: dict[int, list[float]] = {}
        for request in self._requests():
            begun.setdefault(request.port, []).append(request.at)
        found: list[Landing] = []
        for entry in _lines(self._journal):
            if entry["work"] not in ("_add_messages", "_conclude"):
                continue
            arrived = entry["arrived"]
            started = max(
                (at for at in begun.get(entry["port"], ()) if at <= arrived), default=arrived
            )
            messages = entry["body"].get("messages") or entry["body"]["conclusions"]
            for place, message in enumerate(messages):
                mark = _MARK.match(message["content"])
                turn, part = mark.groups() if mark else ("?", "0")
                session = entry["params"].get("session") or message["session_id"]
                landed = entry["landed"]
                found.append(Landing(session, turn, int(part), started, landed, place))
        return found

    def calls(self) -> list[Call]:
        """The calls that write, as they left the workers."""
        found: list[Call] = []
        for request in self._requests():
            write = _WRITES.match(request.line)
            if write:
                status = request.answer.split(" ")[1] if request.answer else None
                found.append(Call(write[1] or "", request.at, int(status) if status else None))
        return found

    def letters(self) -> list[Letter]:
        """The dead letters, as Redis has them."""
        wall = time.time() - time.monotonic()
        with self.redis.client() as client:
            entries: Any = client.xrange(f"{{{PREFIX}}}:dead")
        return [
            Letter(
                fields[b"session"].decode().rpartition(":")[2],
                fields[b"id"].decode(),
                fields[b"reason"].decode(),
                int(entry.partition(b"-")[0]) / 1000 - wall,
            )
            for entry, fields in entries
        ]

    def fallen(self) -> list[str]:
        """Processes that have ended by themselves."""
        return [name for name, process in self.processes.items() if not process.is_running]

    def left(self) -> list[str]:
        """Sessions that have messages in Redis."""
        with self.redis.client() as client:
            pipe = client.pipeline(transaction=False)
            for session in self.shape.sessions:
                for part in ("inflight", "waiting", "backlog"):
                    pipe.llen(f"{_key(session)}:{part}")
            lengths = pipe.execute()
        return [
            session
            for index, session in enumerate(self.shape.sessions)
            if any(lengths[3 * index : 3 * index + 3])
        ]

    def unsound(self) -> list[str]:
        """What ``hermes-tasks check`` has to say, a line for each finding."""
        done = subprocess.run(
            [sys.executable, "-c", "from hermes_tasks.cli import main; main()", "check", "--json"],
            env=clean_environment()
            | {"HERMES_TASKS_BROKER_URL": self.redis.url, "HERMES_TASKS_PREFIX": PREFIX},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [] if done.returncode == 0 else [f"{done.stdout}{done.stderr}"]

    def depths(self) -> list[Depth]:
        """How full the queues were at most."""
        assert self._watch is not None
        return self._watch.depths()

    # -- how -----------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        busy = {offer.gateway for offer in self.offers() if offer.accepted is not None}
        return busy == set(self.shape.gateways)

    def _requests(self) -> list[Request]:
        return [request for worker in self.workers.values() for request in worker.honcho.requests]

    def _receipts(self, gateway: str) -> Path:
        return self.directory / f"receipts-{gateway}.jsonl"

    def _link(self, process: str, server: str, port: int) -> Link:
        link = self._links.open(port, watched=server == "honcho")
        self.links[f"{process}>{server}"] = link
        return link

    def _env(self, link: Link, **more: str) -> dict[str, str]:
        limits = self.shape.limits
        settings = {
            "broker_url": f"redis://127.0.0.1:{link.port}/0",
            "prefix": PREFIX,
            "lease_seconds": limits.lease,
            "timeout_ceiling": limits.ceiling,
            "landing_seconds": limits.landing,
            "breaker_probe_seconds": limits.probe,
            "queue_limit": limits.queue,
            "backlog_limit": limits.backlog,
            **self.shape.settings,
        }
        broken = {"CHAOS_BROKEN": self.shape.broken} if self.shape.broken else {}
        return {
            **{f"HERMES_TASKS_{name.upper()}": str(value) for name, value in settings.items()},
            "HONCHO_WORKSPACE_ID": WORKSPACE,
            "PYTHONPATH": os.pathsep.join(
                [str(INSIDE), str(ROOT), os.environ.get("PYTHONPATH", "")]
            ),
            **broken,
            **more,
        }

    def _worker(self, name: str, pool: str) -> Worker:
        to_redis = self._link(name, "redis", self.redis.port)
        to_honcho = self._link(name, "honcho", int(self.honcho.url.rpartition(":")[2]))
        clock = Clock(self.directory / f"clock-{name}")
        process = WorkerProcess(
            [*POOLS[pool], "--without-mingle", "-n", f"{name}@chaos"],
            env=self._env(
                to_redis,
                HONCHO_URL=f"http://127.0.0.1:{to_honcho.port}",
                HONCHO_API_KEY=KEY,
                CHAOS_CLOCK=str(clock.path),
            ),
            log=self.directory / f"worker-{name}.log",
        )
        return Worker(process, to_redis, to_honcho, clock)

    def _gateway(self, name: str) -> Gateway:
        link = self._link(name, "redis", self.redis.port)
        command = [sys.executable, "-m", "tests.chaos.gateway_process", "--name", name]
        command += ["--sessions", ",".join(self.shape.sessions_of(name))]
        command += ["--rate", str(self.shape.rate)]
        command += [
            "--conclusions",
            str(self.shape.conclusions),
            "--until",
            str(self._quiet),
        ]
        command += ["--seed", str(self._seed), "--receipts", str(self._receipts(name))]
        outbox = self.directory / f"outbox-{name}"
        env = clean_environment() | self._env(link, HERMES_TASKS_OUTBOX_DIR=str(outbox))
        return Gateway(command, env, self.directory / f"gateway-{name}.log", link)


class _Watch:
    """Looks at Redis and at its file all the time."""

    def __init__(self, server: EmbeddedValkey, sessions: list[str]) -> None:
        self._server = server
        self._keys = [_key(name) for name in sessions]
        self._most = {name: [0, 0] for name in sessions}
        self._sizes: list[tuple[float, Path, int]] = []
        self._over = threading.Event()
        self._client = server.client(socket_timeout=1.0)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def depths(self) -> list[Depth]:
        """The most that was seen."""
        return [Depth(name, *most) for name, most in self._most.items()]

    def file_before(self, at: float) -> tuple[Path, int]:
        """The server's file as it was at a time: it had so many bytes."""
        return next(
            ((file, size) for then, file, size in reversed(self._sizes) if then <= at),
            self._sizes[0][1:],
        )

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            file = max((self._server.data_dir / "appendonlydir").glob("*.incr.aof"), default=None)
            if file is not None:
                self._sizes.append((time.monotonic(), file, file.stat().st_size))
            try:
                pipe = self._client.pipeline(transaction=False)
                for key in self._keys:
                    pipe.llen(f"{key}:waiting")
                    pipe.llen(f"{key}:backlog")
                lengths = pipe.execute()
            except redis.RedisError:
                continue  # it is being hurt
            for index, most in enumerate(self._most.values()):
                most[:] = map(max, most, lengths[2 * index : 2 * index + 2])


def _key(session: str) -> str:
    """The Redis key that a session's other keys begin with."""
    return f"{{{PREFIX}}}:session:default:{WORKSPACE}:{session}"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that is being written: the last one may not be whole yet."""
    if not path.exists():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]
