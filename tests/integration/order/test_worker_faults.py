"""Order while workers are killed, stopped, shut down, and lose the processes of their pool."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess
from tests.integration.order.app import LEASE
from tests.integration.order.fleet import SLOTS, Fleet, pool_processes, signal_group
from tests.integration.order.load import Load

pytestmark = pytest.mark.chaos

#: Seconds of work before and after each write: a fault meets most batches half done.
WORK = 0.02


def hurt_while_working(load: Load, victim: WorkerProcess, hurt: Callable[[], object]) -> list[str]:
    """Hurt one of two workers in the middle of its batches; the sessions it held."""
    hold = load.sessions[0]
    load.publish(work=WORK, hold=hold)
    load.journal.wait_for_arrivals(hold, 2 * SLOTS)
    held = load.leased_by(victim)
    assert len(held) == SLOTS
    load.journal.open(hold)
    load.wait_for_share(0.02)
    hurt()
    return held


def test_a_worker_killed_with_its_pool_in_the_middle_of_its_batches(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    victim, _ = fleet.heal()
    turns = load()
    held = hurt_while_working(turns, victim, victim.kill)
    killed_at = time.monotonic()
    written = {session: len(turns.journal.log(session)) for session in held}
    wait_until(
        lambda: all(
            len(turns.journal.log(session)) > min(written[session], turns.turns - 1)
            for session in held
        ),
        LEASE + 2.0,
        "the victim's sessions to go on with the other worker",
    )
    assert time.monotonic() - killed_at < LEASE + 2.0
    turns.check()


def test_a_main_process_killed_alone_leaves_pool_processes_that_write_nothing_twice(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    victim, _ = fleet.heal()
    turns = load()
    hurt_while_working(turns, victim, lambda: os.kill(victim.pid, signal.SIGKILL))
    turns.check()


def test_a_worker_stopped_for_four_leases_writes_nothing_when_it_goes_on(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    """Its tasks stand between ``begin`` and the write: only ``check`` can keep them from it."""
    victim = fleet.heal()[0]
    turns = load(sessions=2 * SLOTS, turns=4)
    gate = turns.sessions[0]
    turns.publish(gate=gate)
    turns.journal.wait_for_arrivals(gate, 2 * SLOTS)
    held = turns.leased_by(victim)
    assert len(held) == SLOTS

    signal_group(victim, signal.SIGSTOP)
    time.sleep(4 * LEASE)
    turns.journal.open(gate)
    turns.wait_until_done()
    signal_group(victim, signal.SIGCONT)

    def refused() -> int:
        return sum(turns.journal.noted(f"refused:{session}") for session in held)

    wait_until(lambda: refused() == SLOTS, 10.0, "the stopped tasks to see that they are too late")
    turns.check()


def test_a_main_process_stopped_for_four_leases_while_its_pool_goes_on(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    victim, _ = fleet.heal()
    turns = load()

    def stop() -> None:
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(4 * LEASE)
        os.kill(victim.pid, signal.SIGCONT)

    hurt_while_working(turns, victim, stop)
    turns.check()


def test_a_warm_shutdown_ends_what_it_began(fleet: Fleet, load: Callable[..., Load]) -> None:
    victim, _ = fleet.heal()
    turns = load()
    hurt_while_working(turns, victim, lambda: victim.send(signal.SIGTERM))
    assert victim.wait() == 0
    assert turns.leased_by(victim) == []
    turns.check()
    assert all(turns.journal.noted(f"late:{session}") == 0 for session in turns.sessions)


def test_a_warm_shutdown_in_the_midst_of_quick_tasks_hears_all_their_answers(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    victim, _ = fleet.heal()
    turns = load(sessions=250, turns=2)
    turns.publish("order.note")
    turns.wait_for_share(0.2)
    assert victim.stop(timeout=20.0) == 0  # a pool process waits 30 s for somebody to listen
    turns.check()


def test_a_cold_shutdown_gives_all_sessions_back_at_once(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    victim, _ = fleet.heal()
    turns = load()
    hurt_while_working(turns, victim, lambda: victim.send(signal.SIGQUIT))
    victim.wait()
    assert turns.leased_by(victim) == []
    turns.check()


def test_a_soft_shutdown_lets_running_tasks_end_and_keeps_their_leases(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    """It sleeps in a signal handler, longer than a lease: nothing of the event loop runs."""
    victim = fleet.start(worker_soft_shutdown_timeout=2.5 * LEASE)
    turns = load(sessions=3 * SLOTS, turns=1)
    hold = turns.sessions[0]
    turns.publish(hold=hold)
    turns.journal.wait_for_arrivals(hold, 3 * SLOTS)
    held = turns.leased_by(victim)
    assert len(held) == SLOTS

    victim.send(signal.SIGQUIT)
    time.sleep(2 * LEASE)
    assert turns.leased_by(victim) == held
    turns.journal.open(hold)
    victim.wait()
    assert turns.leased_by(victim) == []
    turns.check()
    assert turns.journal.noted(f"at:{hold}") == turns.size  # nothing was begun twice
    assert sum(turns.journal.noted(f"refused:{session}") for session in turns.sessions) == 0


def test_pool_processes_killed_at_work(fleet: Fleet, load: Callable[..., Load]) -> None:
    victim, _ = fleet.heal()
    turns = load()

    def kill() -> None:
        for process in pool_processes(victim):
            os.kill(process, signal.SIGKILL)

    hurt_while_working(turns, victim, kill)
    turns.check()
    assert victim.is_running


def test_a_hard_time_limit_costs_an_attempt_and_no_order(
    fleet: Fleet, load: Callable[..., Load]
) -> None:
    turns = load(sessions=2, turns=6)
    turns.publish("order.hang")
    turns.check()
    assert all(turns.journal.noted(f"hung:{s}") > 1 for s in turns.sessions)
    assert "Hard time limit" in fleet.log()
