"""Order while the broker loses scripts, connections, its run queue, its memory or its life."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.testing.servers import Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.channel import IDLE
from tests.integration.order.app import LEASE, make_app
from tests.integration.order.fleet import Fleet, pool_processes
from tests.integration.order.load import Load, store_of

pytestmark = pytest.mark.chaos

WORK = 0.02
#: Bytes that a pipe of Linux holds.
PIPE = 2**16


def test_the_broker_killed_and_started_again_from_its_append_only_file(
    fleet: Fleet, load: Callable[..., Load], broker: Server
) -> None:
    turns = load()
    turns.publish(work=WORK)
    turns.wait_for_share(0.1)
    broker.kill()
    broker.start()
    turns.check()
    assert all(worker.is_running for worker in fleet.members)


def test_the_broker_stopped_for_three_leases(
    fleet: Fleet, load: Callable[..., Load], broker: Server
) -> None:
    """When it goes on, all leases have run out, and all workers believe that they hold theirs."""
    turns = load()
    turns.publish(work=WORK)
    turns.wait_for_share(0.1)
    broker.pause()
    time.sleep(3 * LEASE)
    broker.resume()
    turns.check()


def test_scripts_are_flushed_while_turns_are_published_and_written(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load()
    for share in (0.05, 0.3, 0.6):
        if share < 0.1:
            turns.publish(work=WORK)
        turns.wait_for_share(share)
        store.client.script_flush()
    turns.check()


def test_all_connections_are_killed_again_and_again(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load(turns=12)
    turns.publish(work=WORK)
    for share in (0.05, 0.3, 0.6):
        turns.wait_for_share(share)
        kill_connections(store)
    turns.check()


def test_an_answer_that_is_half_read_when_the_connection_is_lost_is_read_to_its_end(
    fleet: Fleet, app_settings: dict[str, Any]
) -> None:
    """Of what a pool process answers, the rest comes after Celery has reset its event loop."""
    conf = {"prefix": "answers"}
    with make_app(**app_settings | conf) as app, app.journal.client, store_of(app) as store:
        turns = Load(app, store, sessions=1, turns=2)
        (session,) = turns.sessions
        turns.send(session, 0, "order.complain", gate=session, length=4 * PIPE)
        turns.send(session, 1, "order.note")
        worker = fleet.start("-c", "1", **conf)
        turns.journal.wait_for_arrivals(session, 1)
        (child,) = pool_processes(worker)
        worker.send(signal.SIGSTOP)
        turns.journal.open(session)
        wait_until(lambda: fullest_pipe(worker) > PIPE - 8192, 10.0, "half an answer")
        os.kill(child, signal.SIGSTOP)
        kill_connections(store)
        worker.send(signal.SIGCONT)
        wait_until(lambda: worker.log.count("Connected to") == 2, 10.0, "the worker to come back")
        os.kill(child, signal.SIGCONT)
        # The failed turn is settled, and the only slot of the worker free again.
        turns.wait_until_done(10.0)
        assert turns.journal.log(session) == [1]


def test_tasks_that_are_ended_because_their_connection_is_lost_are_delivered_again_at_once(
    fleet: Fleet, app_settings: dict[str, Any]
) -> None:
    """Celery can be set to do so, and then acknowledges nothing: the broker is to deliver again."""
    conf = {"prefix": "ended", "worker_cancel_long_running_tasks_on_connection_loss": True}
    with make_app(**app_settings | conf) as app, app.journal.client, store_of(app) as store:
        turns = Load(app, store, sessions=2, turns=2)
        gate = turns.sessions[0]
        turns.publish(hold=gate)
        fleet.start("-c", "2", **conf)
        turns.journal.wait_for_arrivals(gate, 2)
        kill_connections(store)
        turns.journal.wait_for_arrivals(gate, 4, timeout=10.0)
        turns.journal.open(gate)
        turns.check()
        assert store.counters().get("failed", 0) == 0


def test_connections_that_are_closed_while_nobody_uses_them_cost_no_attempt(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load(sessions=12, turns=2)
    for session in turns.sessions:
        turns.send(session, 0)
    turns.wait_for_share(0.5)
    # As when Redis is started again at night: nothing is on its way.
    time.sleep(IDLE + 0.2)
    kill_connections(store)
    failed = store.counters().get("failed", 0)
    for session in turns.sessions:
        turns.send(session, 1)
    turns.check()
    assert store.counters().get("failed", 0) == failed


def test_a_purge_of_the_run_queue_loses_no_turn(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore, app_settings: dict[str, str]
) -> None:
    turns = load()
    gate = turns.sessions[0]
    turns.publish(gate=gate)
    turns.journal.wait_for_arrivals(gate, 8)
    # What a connection that was killed before had popped, and lost, comes back within the grace.
    wait_until(lambda: store.client.llen(store.names.run) == 32, 5.0, "all others to be queued")
    printed = fleet.celery("purge", "-f", "-Q", store.names.run_queue)
    assert "Purged 32 messages" in printed
    turns.journal.open(gate)
    turns.check()


GARBAGE = [
    b"no json",
    b"\xff\xfe\x00",
    b"",
    b"5",
    b"null",
    b'"text"',
    b"[]",
    b"[1]",
    b"{}",
    b'{"a": 1}',
    b'["x", "y"]',
    b'[1, "nobody"]',
    b'["99999999999999999999999999999999", "nobody"]',
    b'["nan", "nobody"]',
    b'["inf", "nobody"]',
    b'[Infinity, "nobody"]',
    b'[NaN, "nobody"]',
    b"[[1], {}]",
    b"[" * 5000,
    b'{"__type__": "datetime", "__value__": 5}',
    b'{"__type__": "nothing", "__value__": 5}',
    b'[1, "\\ud800"]',
    b'[1, "\\u0000"]',
]


def test_garbage_on_the_run_queue_stops_no_worker(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load()
    turns.publish(work=WORK)
    for entry in GARBAGE * 3:
        store.client.lpush(store.names.run, entry)
        store.client.rpush(store.names.run, entry)
    turns.check()
    assert all(worker.is_running for worker in fleet.members)


def test_a_session_that_is_queued_again_while_it_is_held_is_given_to_nobody_else(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    """As when rescue has queued a session a second time, because its claim was slow."""
    turns, others = load(sessions=4), load()
    hold = turns.sessions[0]
    turns.publish(hold=hold)
    turns.journal.wait_for_arrivals(hold, 4)
    for session in turns.sessions * 5:
        store.client.rpush(store.names.run, f'[1000000, "{session}"]')
    others.publish(work=WORK)
    others.wait_until_done()
    assert turns.journal.noted(f"at:{hold}") == 4
    turns.journal.open(hold)
    turns.check()
    assert others.disorder() == {}


def test_a_broker_without_memory_refuses_and_loses_nothing(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load()
    turns.publish(work=WORK)
    turns.wait_for_share(0.1)
    with config(store, "maxmemory", "1mb", "0"):
        time.sleep(2 * LEASE)
    turns.check()


def test_a_broker_that_may_not_be_written_for_a_while(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    """As after a failover, when workers still reach the server that is a replica now."""
    turns = load()
    turns.publish(work=WORK)
    turns.wait_for_share(0.1)
    store.client.replicaof("127.0.0.1", 1)
    time.sleep(2 * LEASE)
    store.client.replicaof("NO", "ONE")
    turns.check()


def test_a_server_that_becomes_a_replica_while_its_workers_wait_for_work(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    """It ends their BRPOP with an error for which redis-py has no class."""
    wait_for_waiting_workers(store)
    store.client.replicaof("127.0.0.1", 1)
    wait_until(lambda: waiting_workers(store) == 0, 5.0, "the server to turn the workers away")
    store.client.replicaof("NO", "ONE")
    wait_for_waiting_workers(store)
    turns = load()
    turns.publish()
    turns.check()


def test_a_server_that_misses_its_replicas_for_a_while(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    """As one whose disk is full, it refuses what writes and answers what only reads."""
    turns = load()
    turns.publish(work=WORK)
    turns.wait_for_share(0.1)
    with config(store, "min-replicas-to-write", "1", "0"):
        time.sleep(2 * LEASE)
    turns.check()
    wait_for_waiting_workers(store)


def kill_connections(store: SessionStore) -> None:
    for kind in ("normal", "pubsub"):
        store.client.client_kill_filter(_type=kind, skipme=True)


def fullest_pipe(worker: WorkerProcess) -> int:
    """The most bytes that wait in any one pipe of a worker's main process."""
    return max(map(waiting_bytes, Path(f"/proc/{worker.pid}/fd").iterdir()), default=0)


def waiting_bytes(link: Path) -> int:
    """How much waits to be read from a process's open file, if that is a pipe."""
    waiting = array.array("i", [0])
    with suppress(OSError):
        if str(link.readlink()).startswith("pipe:"):
            reader = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.ioctl(reader, termios.FIONREAD, waiting)
            finally:
                os.close(reader)
    return waiting[0]


def waiting_workers(store: SessionStore) -> int:
    return [client["cmd"] for client in store.client.client_list()].count("brpop")


def wait_for_waiting_workers(store: SessionStore) -> None:
    wait_until(lambda: waiting_workers(store) == 2, 15.0, "both workers to wait for work")


@contextmanager
def config(store: SessionStore, name: str, during: str, after: str) -> Iterator[None]:
    store.client.config_set(name, during)
    try:
        yield
    finally:
        store.client.config_set(name, after)
