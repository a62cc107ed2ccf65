"""Cost against size: what a turn costs while ever more sessions are known, and what each keeps."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.cases import Plan
from benchmarks.peers import OURS
from benchmarks.processes import Cpu
from benchmarks.results import Bar, Run, Series, Table, interleaved
from benchmarks.sender import turns
from benchmarks.world import World
from hermes_tasks.testing.servers import EmbeddedValkey, RedisServer, Server
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.sessions import Outcome

#: Turns pushed and completed in one go, and how often that is done at each size in every run.
CYCLES, ROUNDS = 100, 20
#: What of the times is the server's own.
ALLOCATORS: dict[type[Server], str] = {
    EmbeddedValkey: "This server was built without jemalloc. By itself glibc reuses first what was "
    "freed first: in a large heap, memory that no cache has.",
    RedisServer: "This server has jemalloc, as the images of Redis and Valkey have.",
}
#: Turns queued to see what one takes, and how many sessions they are of.
QUEUED, OF_SESSIONS = 10_000, 100
#: Seconds for which idle processes are watched.
IDLE = 10.0


def run(plan: Plan) -> Iterator[Table]:
    """Times, memory, and what idle processes use."""
    yield from times(plan)
    yield memory(plan)
    yield idle(plan)


def times(plan: Plan) -> Iterator[Table]:
    """Push and complete, in microseconds, while so many idle sessions are known.

    Every size has a server of its own, and all are measured in turn: whatever else the machine does
    meets all of them alike.
    """
    sizes = (10, 1_000, 100_000, 1_000_000) if plan.full else (10, 1_000, 100_000)
    # They bring allocators of their own. What deployments run has the bar, if it is here.
    servers: list[type[Server]] = [
        EmbeddedValkey,
        *([RedisServer] if shutil.which("redis-server") else []),
    ]
    for kind in servers:
        with ExitStack() as stack:
            runs: dict[str, Run] = {}
            for size in sizes:
                server = stack.enter_context(kind())
                store = SessionStore(stack.enter_context(server.client()))
                remember(store, 0, size)
                _settle(store)
                cycle(store)  # the first one loads the scripts
                runs[f"{size:,} sessions"] = partial(cycle, store)
            figures = interleaved(ROUNDS * plan.runs, runs)
        for figure, what in (
            ("wall", "One turn pushed, claimed, committed and completed"),
            ("server", "Of this, the time that the server needs for its scripts"),
        ):
            table = Table(
                f"size-{figure}-{kind.name}",
                f"{what}, while so many sessions are known; {kind.name}",
                "µs",
                figures[figure],
                lower_is_better=True,
                note=f"A run is {CYCLES} turns, each of a session that was not known before. "
                + ALLOCATORS[kind],
            )
            first, last = table.series[0].name, table.series[-1].name
            if figure == "wall" and kind is servers[-1]:
                ratio = table.paired_ratio(last, first)
                table.bars.append(Bar(f"{last} / {first}, {kind.name}", ratio, at_most=1.3))
            yield table


def _settle(store: SessionStore) -> None:
    """Wait until the server has rewritten its file, which grew faster than it ever does in use."""
    while store.client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.1)


def cycle(store: SessionStore) -> dict[str, float | None]:
    """Microseconds of one turn's four scripts, over a session of its own each time."""
    message = "x" * 1_000
    sessions = [uuid.uuid4().hex for _ in range(CYCLES)]
    store.client.config_resetstat()
    begin = time.perf_counter()
    for session in sessions:
        store.push(session, message, id=session)
        _run_through(store, session)
    taken = time.perf_counter() - begin
    scripts = store.client.info("commandstats")["cmdstat_evalsha"]["usec"]
    store.client.delete(*(key for one in sessions for key in store.names.session(one)[:5]))
    return {"wall": taken / CYCLES * 1e6, "server": scripts / CYCLES}


def _run_through(store: SessionStore, session: str) -> None:
    entry = store.client.rpop(store.names.run)
    assert isinstance(entry, bytes)
    number, name = json.loads(entry)
    claim = store.claim(name, int(number), uuid.uuid4().hex, "bench")
    assert claim is not None
    assert name == session
    store.commit(session, claim.token, [claim.items[0].id])
    store.complete(session, claim.token, Outcome.ENDED)


def remember(store: SessionStore, first: int, last: int) -> None:
    """Make idle sessions: one is worked through, the others are copies of what it leaves."""
    store.push("first", "x", id=uuid.uuid4().hex)
    _run_through(store, "first")
    key = store.names.session("first")[0]
    left = store.client.dump(key)
    assert isinstance(left, bytes)
    for begin in range(first, last, 10_000):
        with store.client.pipeline(transaction=False) as pipe:
            for number in range(begin, min(begin + 10_000, last)):
                pipe.restore(store.names.session(f"idle-{number}")[0], 86_400_000, left)
            pipe.execute()


def memory(plan: Plan) -> Table:
    """Bytes of Redis: of a queued turn, and of a session."""
    turn = Series("queued turn of 1 KB")
    active, idle_session = Series("session with a turn, without it"), Series("idle session")
    for _ in range(plan.runs):
        with World(OURS) as world:
            sender = world.sender(sessions=OF_SESSIONS, turns=QUEUED // OF_SESSIONS)
            before = _used(world.server.client())
            sender.go()
            queued = _used(world.server.client()) - before
        with World(OURS) as world:
            sender = world.sender(sessions=QUEUED, turns=1)
            before = _used(world.server.client())
            sender.go()
            spread = _used(world.server.client()) - before
        turn.values.append(queued / QUEUED)
        active.values.append((spread - queued) / (QUEUED - OF_SESSIONS))
        with EmbeddedValkey() as server:
            store = SessionStore(server.client())
            remember(store, 0, 1)
            before = _used(server.client())
            remember(store, 1, QUEUED)
            idle_session.values.append((_used(server.client()) - before) / (QUEUED - 1))
    text = sum(len(message["content"]) for message in next(turns(1, 1, 1_000))["messages"])
    table = Table(
        "size-memory",
        "Memory of Redis",
        "bytes",
        [turn, active, idle_session],
        lower_is_better=True,
        note=f"used_memory over {QUEUED:,} of them. The text of such a turn has {text} bytes. "
        "An idle session is forgotten after a day.",
    )
    table.bars.append(Bar("queued turn of 1 KB", turn.median, at_most=1_600))
    table.bars.append(Bar("idle session", idle_session.median, at_most=400))
    return table


def _used(client: object) -> int:
    return int(client.info("memory")["used_memory"])  # type: ignore[attr-defined]


def idle(plan: Plan) -> Table:
    """CPU of a worker and of a gateway that have nothing to do, in ms a second."""
    worker, gateway = Series("idle worker, threads"), Series("idle gateway")
    for _ in range(plan.runs if plan.full else 1):
        with World(OURS) as world:
            world.start()
            world.wait_ready()
            sender = world.sender(sessions=1, turns=1)
            used = Cpu.of(world.workers[0].pid), Cpu.of(sender.pid)
            time.sleep(IDLE)
            after = Cpu.of(world.workers[0].pid), Cpu.of(sender.pid)
            sender.go()
        worker.values.append((after[0] - used[0]) / IDLE * 1000)
        gateway.values.append((after[1] - used[1]) / IDLE * 1000)
    return Table(
        "size-idle",
        "CPU of idle processes",
        "ms/s",
        [worker, gateway],
        lower_is_better=True,
    )
