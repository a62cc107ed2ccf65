"""One run: a cluster, a plan, and what the checker says of the history."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checker import Verdict, check
from tests.chaos.cluster import LIMITS, Cluster, Shape
from tests.chaos.history import History, as_json
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import Action, describe, make_plan

DRAIN_SECONDS = 40.0
"""How long a run waits for turns that are not settled, when the last fault is over."""

STORIES = 3
"""Sessions whose story a failing run tells; the others' are in its directory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over.

    Attributes:
        start: when the plan began, in seconds of :func:`time.monotonic`.
        directory: of its logs.
        drained: seconds until nothing was left to be done, or the run gave up.
    """

    seed: int
    start: float
    plan: Sequence[Action]
    history: History
    verdict: Verdict
    directory: Path
    drained: float

    def text(self) -> str:
        """What is printed: more for a run that failed."""
        problems = self.verdict.problems()
        said = (
            f"seed {self.seed}: {len(self.history.faults)} faults, {self.verdict.report()}, "
            f"drained in {self.drained:.1f} s"
        )
        if not problems:
            return said
        lines = [said, *(f"  FAILED  {line}" for line in problems)]
        lines += ["  what was to be done, in seconds:"]
        lines += [f"  {line}" for line in describe(self.plan).splitlines()]
        for session in sorted(self.verdict.concerned)[:STORIES]:
            lines += [f"  session {session}, in seconds:"]
            lines += [f"  {line}" for line in self.history.of_session(session, self.start)]
        return "\n".join([*lines, f"  logs and the whole history: {self.directory}"])


def run(
    seed: int,
    seconds: float,
    directory: Path,
    *,
    shape: Shape | None = None,
    plan: Sequence[Action] | None = None,
    drain: float = DRAIN_SECONDS,
) -> Outcome:
    """Hurt a deployment for so many seconds, let it recover, and check what became of the turns.

    Args:
        seed: of the plan and of what the gateways say.
        seconds: until the last fault is over.
        directory: for logs and history.
        shape: of the deployment.
        plan: what to do, instead of what the seed says.
        drain: how long turns may take to be settled when the last fault is over.
    """
    shape = shape or Shape(LIMITS)
    if plan is None:
        plan = make_plan(seed, seconds, list(shape.workers), shape.gateways, shape.limits)
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(shape, seed, directory)
    with cluster:
        nemesis = Nemesis(cluster)
        start = time.monotonic()
        nemesis.follow(plan, start)
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        cluster.quieten()
        nemesis.heal()
        healed = time.monotonic()
        _drain(cluster, healed + drain)
        history = History(
            offers=cluster.offers(),
            landings=cluster.landings(),
            calls=cluster.calls(),
            letters=cluster.letters(),
            faults=nemesis.faults,
            depths=cluster.depths(),
            ended=time.monotonic(),
            fallen=cluster.fallen(),
            left=cluster.left(),
            unsound=cluster.unsound(),
        )
    verdict = check(history, shape.limits)
    _keep(history, start, directory)
    return Outcome(seed, start, plan, history, verdict, directory, history.ended - healed)


def _drain(cluster: Cluster, deadline: float) -> None:
    """Wait until every accepted turn is settled, and no call is open that may land."""
    while time.monotonic() < deadline:
        stored = {(landing.turn, landing.part) for landing in cluster.landings()}
        dead = {letter.turn for letter in cluster.letters()}
        waiting = [
            offer.turn
            for offer in cluster.offers()
            if offer.accepted is not None
            and offer.turn not in dead
            and any((offer.turn, part) not in stored for part in range(offer.parts))
        ]
        if not (waiting or cluster.left() or cluster.honcho.stats()["in_flight"]):
            return
        time.sleep(0.3)


def _keep(history: History, start: float, directory: Path) -> None:
    """Write a history down: all of it for a program, and each session's to be read."""
    whole = {
        name: as_json(getattr(history, name))
        for name in ("offers", "landings", "calls", "letters", "faults", "depths")
    }
    (directory / "history.json").write_text(json.dumps({"start": start, **whole}))
    for session in sorted({offer.session for offer in history.offers}):
        lines = history.of_session(session, start)
        (directory / f"session-{session}.txt").write_text("\n".join(lines) + "\n")
