"""What a failing Honcho means for one turn: how long it is tried, how large its batch is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from tests.integration.outages.conftest import DONE, check_end, complaints

THREADS = ("-P", "threads", "-c", "2")


def test_a_turn_is_given_up_for_its_age_and_tells_once_what_it_went_through(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    deployment = deploy(retry_max_age=1, breaker_failures=1, breaker_probe_seconds=0.2)
    deployment.start(1, *THREADS)
    (session,) = deployment.sessions(1)
    deployment.send([session])
    deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    # Given a backend that fails in one way first, and then in another
    honcho.control(fail=500, route="any")
    honcho.control(fail=503, times=-1, route="any")
    deployment.send([session])
    # When the turn is too old
    wait_until(deployment.store.dead_letters, DONE, "the turn to be given up")
    honcho.control(reset=True)

    # Then it is a dead letter that says why, and through what it went
    (letter,) = deployment.store.dead_letters()
    trace = letter["trace"].splitlines()
    assert letter["reason"] == "given_up"
    assert letter["id"] == f"{session}-t1"
    assert "HTTP 500" in trace[0]
    assert any("held: " in line for line in trace)
    assert any("HTTP 503" in line for line in trace)
    # and the log says it once, the first error as the cause of the last
    wait_until(lambda: "dead letter" in deployment.log(), 5.0, "the log to say so")
    said = complaints(deployment.log())
    assert len(said) == 1, said
    assert f"{session}-t1 of session" in said[0]
    told = deployment.log().partition(said[0])[2]
    first, _, last = told.partition("The above exception was the direct cause")
    assert "GivenUp: Overloaded: HTTP 500" in first
    assert "GivenUp: given_up: Overloaded: HTTP 503" in last

    # And those behind it are written
    deployment.send([session])
    deployment.wait_until_written(DONE)
    assert (deployment.audit().lost, deployment.audit().written) == (1, 2)
    check_end(deployment)


def test_a_batch_that_times_out_at_the_ceiling_comes_again_at_half_its_size(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given a batch of eight turns that takes too long as a whole
    deployment = deploy(timeout_ceiling=1.5, landing_seconds=1)
    (session,) = deployment.sessions(1)
    deployment.send([session], 8)
    honcho.control(stall=3600)
    deployment.start(1, *THREADS)
    # When it is tried again, then in two halves
    deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    assert _turns_per_call(deployment, honcho) == [4, 4]
    assert complaints(deployment.log()) == []
    check_end(deployment)


def test_nobody_waits_for_a_call_that_was_answered_or_has_landed(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given that a call may land for longer than anybody waits here
    deployment = deploy(landing_seconds=3600)
    deployment.start(1, *THREADS)
    (session,) = deployment.sessions(1)
    # When one is refused for now, one is applied and not answered, and one finds no room
    for fault in (
        {"fail": 503},
        {"fail": 502, "after": True},
        {"cut": True, "after": True},
        {"fail": 429, "retry_after": "0.1"},
    ):
        honcho.control(**fault)
        deployment.send([session], 2)
        # Then what it carried, and what comes after, is written soon
        deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    assert "awaited" not in deployment.store.counters()
    check_end(deployment)


def test_a_call_that_lands_later_than_was_waited_is_found_counted_and_told_once(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given a call that lands long after it was given up
    deployment = deploy(timeout_ceiling=1, landing_seconds=0.5)
    deployment.start(1, *THREADS)
    (session,) = deployment.sessions(1)
    honcho.control(stall=3)
    deployment.send([session])
    # When its turn is written again, and the session is asked for another one later
    deployment.wait_until_written(DONE)
    assert deployment.audit().is_clean
    wait_until(lambda: deployment.audit().twice, DONE, "the call to land")
    for _ in range(2):
        honcho.control(fail=502, after=True)
        deployment.send([session])
        deployment.wait_until_written(DONE)
    # Then it is counted, and said
    assert deployment.store.counters()["twice"] == 1
    said = complaints(deployment.log())
    assert len(said) == 1, said
    assert f"{session}-t0 of session" in said[0]
    assert (deployment.audit().twice, deployment.audit().written) == (1, 3)
    check_end(deployment)


def test_connections_stay_while_deadlines_change(
    deploy: Callable[..., Deployment], honcho: HonchoServer
) -> None:
    # Given a deadline that follows the latency
    deployment = deploy(timeout_floor=0.3, timeout_warmup=3, timeout_window=4, batch_turns=1)
    deployment.start(1, "-P", "threads", "-c", "1")
    sessions = deployment.sessions(1)
    honcho.control(latency=0.02)
    deployment.send(sessions, 6)
    deployment.wait_until_written(DONE)
    connections = honcho.stats()["connections"]
    deadlines = {_deadline(deployment)}
    # When it changes between calls
    honcho.control(latency=0.15)
    asked = 2  # this, and the question after it: each of ours is a connection
    for _ in range(8):
        deployment.send(sessions)
        deployment.wait_until_written(DONE)
        deadlines.add(_deadline(deployment))
    assert len(deadlines) > 1
    print(f"deadlines {sorted(deadlines)}")
    # Then every call went out on the connection that there was
    assert honcho.stats()["connections"] == connections + asked
    assert deployment.audit().is_clean
    check_end(deployment)


def _deadline(deployment: Deployment) -> float:
    return round(deployment.gate.status().classes[0].deadline, 3)


def _turns_per_call(deployment: Deployment, honcho: HonchoServer) -> list[int]:
    """Turns of each stored call, in order."""
    (session,) = deployment.sent
    calls = Counter(
        entry["batch"] for entry in honcho.log(session) if entry["metadata"]["part"] == 0
    )
    return [calls[batch] for batch in sorted(calls)]


def test_a_turn_that_is_revoked_while_it_is_written_is_written(
    deployment: Deployment, honcho: HonchoServer
) -> None:
    """Its acknowledgement settles it, and what is stored must not become a dead letter."""
    (session,) = deployment.sessions(1)
    honcho.control(latency=1.0)
    deployment.send([session])
    wait_until(lambda: deployment.look().calls == 1, DONE, "the call")
    deployment.app.control.revoke(deployment.sent[session][0], reply=True, timeout=DONE, limit=3)
    deployment.wait_until_written(DONE)
    assert deployment.audit([session]).is_clean
    reasons = [letter["reason"] for letter in deployment.store.dead_letters()]
    assert "revoked" not in reasons
