"""A worker dies in the middle of what takes several calls, or of what carries no id of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hermes_tasks.app import TASK
from hermes_tasks.testing.deployment import Deployment
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.turns import Conclusion, Memory, Turn

pytestmark = [pytest.mark.chaos, pytest.mark.honcho]

PARTS = 250
CEILING, LANDING = 2.0, 3.0
#: Seconds after its start that a call whose worker is dead takes effect: after the first question
#: of the next worker, and before it may write.
LATE = 4.0


def test_a_long_turn_and_a_conclusion_survive_the_worker_once_each_and_in_their_place(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(
        lease_seconds=2, timeout_ceiling=CEILING, landing_seconds=LANDING, batch_turns=10
    )
    honcho, workspace = deployment.honcho, deployment.workspace
    task = deployment.app.tasks[TASK]

    def turn(session: str, name: str, parts: int = 1) -> Turn:
        said = [{"peer": "igor", "content": f"{name} {part}"} for part in range(parts)]
        return Turn.create(workspace, session, said, turn_id=f"{session}:{name}")

    def send(*entries: Memory) -> None:
        for entry in entries:
            task.apply_async((entry.to_json(),))

    def made(route: str) -> int:
        calls: int = honcho.stats()["calls"].get(route, 0)
        return calls

    def stored(session: str) -> list[str]:
        return [entry["content"] for entry in honcho.log(session, workspace=workspace)]

    # Given a turn of three calls, of which the second is read, and takes effect late
    deployment.start(1)
    long = turn("long", "long", PARTS)
    calls = made("messages")
    honcho.control(stall=LATE, skip=2)
    send(turn("long", "before"), long, turn("long", "after"))
    wait_until(lambda: made("messages") == calls + 3, 15.0, "the second call of the long turn")
    # and a conclusion between two turns, whose call does the same
    calls = made("conclusions")
    honcho.control(stall=LATE, route="conclusions")
    learnt = Conclusion.create(workspace, "fact", "hermes", "igor", "Igor likes tea.")
    send(turn("fact", "before"), learnt, turn("fact", "after"))
    wait_until(lambda: made("conclusions") > calls, 15.0, "the conclusion's call")
    assert deployment.store.counters()["written"] == 2  # what is before them, and nothing more

    # When their worker is killed, and another takes over
    deployment.workers[0].kill()
    deployment.start(1)
    wait_until(
        lambda: deployment.settled >= 6 and deployment.look().is_quiet, 30.0, "all to be settled"
    )

    # Then everything is there once, in order
    parts = [message.content for message in long.messages]
    assert stored("long") == ["before 0", *parts, "after 0"]
    assert stored("fact") == ["before 0", "after 0"]
    [concluded] = honcho.conclusions("fact", workspace=workspace)
    numbers = [entry["number"] for entry in honcho.log("fact", workspace=workspace)]
    assert concluded["content"] == learnt.content
    assert numbers[0] <= concluded["after"] < numbers[1]
    assert deployment.store.dead_letters() == []
