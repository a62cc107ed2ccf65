"""Hooks in real workers and gateways: each thing is told once, and what they do changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from hermes_tasks import TurnSync, hooks
from hermes_tasks.app import TASK
from hermes_tasks.config import Settings
from hermes_tasks.gate import State
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.keeper import Keeper
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.turns import Turn

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SECRET = "what nobody but Honcho may read"

#: Writes down what it is told, as a hook and as a receiver of a signal. Workers import it first, so
#: it is also where they learn that this test has no 30 seconds.
TELLING = """
import json, os
from hermes_tasks import hooks
hooks.LIMIT = 0.3

def tell(kind, event):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps([kind, event]) + "\\n")

def written(**event):
    tell("written", event)

def dropped(**event):
    tell("dropped", event)

def breaker(**event):
    tell("breaker", event)

@hooks.turn_written.connect
def connected(sender, signal, **event):
    tell("signal", event)
"""

WRONG = """
def raises(**event):
    raise SystemExit("wrong")
"""

HANGING = """
import time

def hangs(**event):
    time.sleep(3600)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Installs modules with entry points where processes find them; their environment."""
    site, told = tmp_path / "site", tmp_path / "told"

    def install(name: str, source: str, **entry_points: str) -> dict[str, str]:
        information = site / f"{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (site / f"{name}.py").write_text(source)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        lines = [f"{point} = {name}:{function}" for point, function in entry_points.items()]
        (information / "entry_points.txt").write_text(f"[{hooks.GROUP}]\n" + "\n".join(lines))
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "TOLD": str(told)}

    return install


@pytest.fixture
def told(tmp_path: Path) -> Callable[[str], list[dict[str, str]]]:
    """What hooks were told of a kind."""

    def read(kind: str) -> list[dict[str, str]]:
        lines = (tmp_path / "told").read_text().splitlines()
        return [event for said, event in map(json.loads, lines) if said == kind]

    return read


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def deployment(
    server: Server, prefix: str, honcho: HonchoServer, tmp_path: Path
) -> Iterator[Deployment]:
    with Deployment(
        server,
        honcho,
        logs=tmp_path,
        prefix=prefix,
        breaker_probe_seconds=0.3,
        timeout_ceiling=2.0,
        landing_seconds=0.5,
    ) as made:
        yield made


def test_everything_is_told_once_though_other_hooks_raise_and_hang(
    deployment: Deployment,
    installed: Callable[..., dict[str, str]],
    told: Callable[[str], list[dict[str, str]]],
) -> None:
    # Given workers of three processes that write, and three hooks: one tells, one raises, and one
    # never returns
    env = installed("wrong", WRONG, on_turn_written="raises")
    installed("hanging", HANGING, on_turn_written="hangs")
    installed(
        "telling",
        TELLING,
        on_turn_written="written",
        on_turn_dropped="dropped",
        on_breaker_change="breaker",
    )
    for pool in ("prefork", "threads"):
        deployment.start(1, "-P", pool, "-c", "2", "-I", "telling", **env)
    task, sessions = deployment.app.tasks[TASK], deployment.sessions(4)
    given_up = ("poison", "expired")

    # When turns are written, one is refused, one expires,
    deployment.send(sessions, 3)
    for turn_id in given_up:
        turn = Turn.create("w", sessions[0], [{"peer": "u", "content": SECRET}], turn_id=turn_id)
        data = turn.to_json()
        data["messages"][0]["content"] += " <|endoftext|>"
        expires = datetime.now(UTC) + timedelta(seconds=0.001) if turn_id == "expired" else None
        task.apply_async((data,), expires=expires)
        deployment.sent[sessions[0]].append(turn_id)
    deployment.wait_until_written(30)
    assert deployment.gate.status().counters["opened"] == 0
    # and Honcho is down for a while
    deployment.honcho.control(fail=503, times=-1, route="any")
    deployment.send(sessions)
    wait_until(lambda: deployment.look().state is not State.CLOSED, 15.0, "the breaker to open")
    deployment.honcho.control(reset=True)
    deployment.wait_until_written(30)
    # and workers are told to end at once
    for worker in deployment.workers:
        worker.send(signal.SIGTERM)
    assert [worker.wait() for worker in deployment.workers] == [0, 0]

    # Then all of it was told, once, without the text
    turns = [id for ids in deployment.sent.values() for id in ids if id not in given_up]
    written = told("written")
    assert sorted(event["turn_id"] for event in written) == sorted(turns)
    assert sorted(event["turn_id"] for event in told("signal")) == sorted(turns)
    expected = {"workspace": "w", "backend": "default", "session": sessions[1]}
    assert {**written[0], "turn_id": "", "session": sessions[1]} == {"turn_id": "", **expected}
    dropped = {event["turn_id"]: event["reason"] for event in told("dropped")}
    assert len(told("dropped")) == 2
    assert dropped == {"poison": "poison", "expired": "expired"}
    assert [(event["gate"], event["state"]) for event in told("breaker")] == [
        ("default:w", "open"),
        ("default:w", "closed"),
    ]
    assert SECRET not in Path(env["TOLD"]).read_text()
    # The others have changed nothing but counters,
    counters = deployment.store.counters()
    assert counters["hook_failed"] == len(turns)
    assert 1 <= counters["hook_timeout"] <= 3
    assert counters["hook_timeout"] + counters["hook_dropped"] == len(turns)
    # and are named in the log once for each process
    assert Counter(
        line.split("Hook ")[1].split()[0]
        for line in deployment.log().splitlines()
        if "Hook " in line
    ).keys() == {"wrong:raises", "hanging:hangs"}


def test_a_turn_of_a_batch_in_halves_is_told_once_and_as_what_became_of_it(
    deployment: Deployment,
    installed: Callable[..., dict[str, str]],
    told: Callable[[str], list[dict[str, str]]],
) -> None:
    # Given a batch with one turn that is refused, so that the others are written in several calls
    env = installed("telling", TELLING, on_turn_written="written", on_turn_dropped="dropped")
    task, (session,) = deployment.app.tasks[TASK], deployment.sessions(1)
    deployment.send([session], 1)
    turn = Turn.create("w", session, [{"peer": "u", "content": SECRET}], turn_id="poison")
    data = turn.to_json()
    data["messages"][0]["content"] += " <|endoftext|>"
    task.apply_async((data,))
    deployment.sent[session].append("poison")
    deployment.send([session], 2)

    # When a worker takes it
    (worker,) = deployment.start(1, "-c", "1", "-I", "telling", **env)
    deployment.wait_until_written(30)
    worker.send(signal.SIGTERM)
    worker.wait()

    # Then
    written = sorted(event["turn_id"] for event in told("written"))
    assert written == sorted(id for id in deployment.sent[session] if id != "poison")
    assert [event["turn_id"] for event in told("dropped")] == ["poison"]


def test_a_gateway_is_told_which_turns_overflow(
    settings: Settings, tmp_path: Path, told_here: list[dict[str, Any]]
) -> None:
    small = settings.model_copy(update={"queue_limit": 2, "backlog_limit": 2})
    gateway = TurnSync(settings=small, workspace="w", outbox_dir=tmp_path / "outbox")
    ids = [
        gateway.sync_turn(session="s", messages=[{"peer": "u", "content": SECRET}]).turn_id
        for _ in range(7)
    ]
    try:
        wait_until(lambda: len(told_here) == 3, 10.0, "three turns to be dropped")
    finally:
        gateway.close(1)
    assert [event["turn_id"] for event in told_here] == ids[:3]
    assert {event["reason"] for event in told_here} == {"overflow"}
    assert SECRET not in str(told_here)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.FAILED, "attempts"),
        (Outcome.REVOKED, "revoked"),
        (Outcome.EXPIRED, "expired"),
        (Outcome.SETTLED, None),
        (Outcome.RELEASED, None),
    ],
)
def test_what_a_worker_gives_up_without_its_task_is_told(
    redis_client: redis.Redis,
    prefix: str,
    told_here: list[dict[str, Any]],
    outcome: Outcome,
    reason: str | None,
) -> None:
    store = SessionStore(redis_client, Names(prefix), SessionOptions(max_attempts=1))
    keeper = Keeper(store)
    store.push("default:w:s", "text", id="t0")
    claim = store.claim("default:w:s", 1, "token", "worker")
    assert claim is not None
    keeper.add(claim, settles=False)
    keeper.finish("token", outcome)
    assert hooks.drain(5)
    told = [(event["turn_id"], event["session"], event["reason"]) for event in told_here]
    assert told == ([("t0", "s", reason)] if reason else [])


@pytest.fixture
def told_here() -> Iterator[list[dict[str, Any]]]:
    """What this process is told of dropped turns."""
    found: list[dict[str, Any]] = []

    def note(**event: Any) -> None:
        found.append(event)

    hooks.turn_dropped.connect(note)
    yield found
    hooks.turn_dropped.disconnect(note)
