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
from benchmarks.limits import push_seconds
from benchmarks.peers import OURS
from benchmarks.placing import Placement, place, placements
from benchmarks.processes import Cpu
from benchmarks.results import Bar, Figure, Kind, Run, Series, Table, measured
from benchmarks.sender import turns
from benchmarks.world import World
from hermes_tasks.testing.servers import EmbeddedValkey, RedisServer, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.answers import Entry, Outcome

TITLE = "Cost against size"
ABOUT = """
A deployment may know a million sessions, of which few talk. What a turn costs must not depend on
that, and what a session keeps in Redis must be small: it is what makes a duplicate a duplicate
for a day, then nothing. Processes that have nothing to do should use nothing.
"""
#: Turns pushed and completed in one go, and round trips of each.
CYCLES, ROUND_TRIPS = 100, 5
#: What of the times is the server's own.
ALLOCATORS: dict[type[Server], str] = {
    EmbeddedValkey: "This server was built without jemalloc. By itself glibc reuses first what was "
    "freed first: in a large heap, memory that no cache has.",
    RedisServer: "This server has jemalloc, as the images of Redis and Valkey have.",
}
KINDS = {
    "a turn": Kind("µs", lower_is_better=True),
    "of this, the server's scripts": Kind("µs", lower_is_better=True),
}
#: Turns queued to see what one takes, and how many sessions they are of.
QUEUED, OF_SESSIONS = 10_000, 100
#: Seconds for which idle processes are watched.
IDLE = 5.0


def run(plan: Plan) -> Iterator[Table]:
    """Times, memory, and what idle processes use."""
    yield from times(plan)
    yield from memory(plan)
    yield idle(plan)


def times(plan: Plan) -> Iterator[Table]:
    """Push and complete, in microseconds, while so many idle sessions are known.

    Every size has a server of its own, and all are measured in turn: whatever else the machine does
    meets all of them alike.
    """
    sizes = (10, 1_000, 100_000, 1_000_000) if plan.full else (10, 1_000, 100_000)
    # They bring allocators of their own. What deployments run has the bar, if it is here.
    kinds: list[type[Server]] = [
        EmbeddedValkey,
        *([RedisServer] if shutil.which("redis-server") else []),
    ]
    for kind in kinds:
        with ExitStack() as stack:
            servers = {size: stack.enter_context(kind()) for size in sizes}
            stores = {
                f"{size:,} sessions": SessionStore(stack.enter_context(server.client()))
                for size, server in servers.items()
            }
            for size, store in zip(sizes, stores.values(), strict=True):
                remember(store, 0, size)
            for store in stores.values():
                wait_until(partial(_is_at_rest, store), 120, "servers to put away what they got")
                cycle(store)  # the first one loads the scripts
            for placement in placements():
                for server in servers.values():
                    place(server.pid, placement.server)
                with placement.here():
                    table = _times(plan, kind, placement, stores)
                if kind is kinds[-1]:
                    first, *_, last = stores
                    ratio = table.figures[0].paired_ratio(last, first)
                    said = f"{last} / {first}, {kind.name}, {placement.name}"
                    table.bars.append(Bar(said, ratio, at_most=1.3))
                yield table


def _times(
    plan: Plan, kind: type[Server], placement: Placement, stores: dict[str, SessionStore]
) -> Table:
    # Many short ones rather than a few long ones: what is compared lies close together.
    rounds = plan.runs * (20 if plan.full else 6)
    raw = partial(_raw, next(iter(stores.values())))
    runs: dict[str, Run] = {name: partial(cycle, store) for name, store in stores.items()}
    return Table(
        f"size-{kind.name}-{placement.name.replace(' ', '-')}",
        f"A turn while so many sessions are known, {kind.name}, {placement.name}",
        measured(rounds, runs, KINDS, (f"{ROUND_TRIPS} EVALSHA", raw)),
        note=f"A turn is pushed, popped, claimed, committed and completed. {rounds} runs of "
        f"{CYCLES} turns, each of a session that was not known before. {ALLOCATORS[kind]}",
    )


def _is_at_rest(store: SessionStore) -> bool:
    """Whether the server neither rewrites its file nor grows its table of keys."""
    persistence, memory = store.client.info("persistence"), store.client.info("memory")
    return not (
        persistence["aof_rewrite_in_progress"]
        or persistence["aof_rewrite_scheduled"]
        or memory.get("mem_overhead_db_hashtable_rehashing")
    )


def _raw(store: SessionStore) -> dict[str, float | None]:
    """Microseconds of as many round trips, each with a script that only pushes."""
    one = push_seconds(store.client, CYCLES, script=True)
    return {"a turn": ROUND_TRIPS * one * 1e6}


def cycle(store: SessionStore) -> dict[str, float | None]:
    """Microseconds of one turn's round trips, over a session of its own each time."""
    message = "x" * 1_000
    sessions = [uuid.uuid4().hex for _ in range(CYCLES)]
    store.client.config_resetstat()
    begin = time.perf_counter()
    for session in sessions:
        store.push(session, message, id=session)
        _run_through(store, session)
    taken = time.perf_counter() - begin
    scripts = store.client.info("commandstats")["cmdstat_evalsha"]["usec"]
    store.client.delete(*(key for one in sessions for key in store.names.own(one)))
    return {"a turn": taken / CYCLES * 1e6, "of this, the server's scripts": scripts / CYCLES}


def _run_through(store: SessionStore, session: str) -> None:
    entry = store.client.rpop(store.names.run)
    assert isinstance(entry, bytes)
    found = Entry.parse(entry)
    claim = store.claim(found.session, found.number, uuid.uuid4().hex, "bench")
    assert claim is not None
    assert claim.session == session
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


def memory(plan: Plan) -> Iterator[Table]:
    """Bytes of Redis: of a queued turn, and of a session."""
    turn, raw = Series("hermes_tasks"), Series("LPUSH of the turn's JSON")
    active, idle_session = Series("with a turn, without it"), Series("idle, of today")
    bodies = [json.dumps(one) for one in turns(OF_SESSIONS, QUEUED // OF_SESSIONS)]
    # What is kept does not vary from run to run, so that fewer than five would say as much.
    for _ in range(plan.runs):
        with World(OURS) as world:
            sender, client = world.sender(), world.server.client()
            before = _used(client)
            sender.go(sessions=OF_SESSIONS, turns=QUEUED // OF_SESSIONS)
            queued = _used(client) - before
            before = _used(client)
            sender.go(sessions=QUEUED, turns=1, name="other")
            spread = _used(client) - before
            sender.close()
        turn.values.append(queued / QUEUED)
        active.values.append((spread - queued) / (QUEUED - OF_SESSIONS))
        with EmbeddedValkey() as server:
            client = server.client()
            before = _used(client)
            client.lpush("raw", *bodies)
            raw.values.append((_used(client) - before) / QUEUED)
            store = SessionStore(client)
            remember(store, 0, 1)
            before = _used(client)
            remember(store, 1, QUEUED)
            idle_session.values.append((_used(client) - before) / (QUEUED - 1))
    yield Table(
        "size-turn",
        "Memory of Redis for a queued turn of 1 KB",
        [Figure("used_memory", "bytes", [turn], True, raw)],
        note=f"Over {QUEUED:,} turns of {OF_SESSIONS} sessions, without the server's buffers.",
        bars=[Bar("bytes of Redis, queued turn of 1 KB", turn.median, at_most=1_600)],
    )
    yield Table(
        "size-session",
        "Memory of Redis for a session",
        [Figure("used_memory", "bytes", [active, idle_session], lower_is_better=True)],
        note=f"Over {QUEUED:,} sessions. An idle session is forgotten after a day: 0 bytes.",
        bars=[Bar("bytes of Redis, idle session", idle_session.median, at_most=400)],
    )


def _used(client: object) -> int:
    """``used_memory`` without what clients' connections take, which comes and goes."""
    found = client.info("memory")  # type: ignore[attr-defined]
    return int(found["used_memory"] - found["mem_clients_normal"] - found["mem_aof_buffer"])


def idle(plan: Plan) -> Table:
    """CPU of a worker and of a gateway that have nothing to do, in ms a second."""
    worker, gateway = Series("worker, threads"), Series("gateway")
    watched = IDLE if plan.full else IDLE / 2
    with World(OURS) as world:
        world.start()
        world.wait_consuming(1)
        sender = world.sender()
        world.send(sessions=1, turns=1)
        world.wait(1)
        for _ in range(plan.runs):
            used = Cpu.of(world.workers[0].pid), Cpu.of(sender.pid)
            time.sleep(watched)
            after = Cpu.of(world.workers[0].pid), Cpu.of(sender.pid)
            worker.values.append((after[0] - used[0]) / watched * 1000)
            gateway.values.append((after[1] - used[1]) / watched * 1000)
    return Table(
        "size-idle",
        "CPU of idle processes",
        [Figure("CPU", "ms/s", [worker, gateway], lower_is_better=True)],
        note="Of one second, 1,000 ms are a whole core.",
    )
