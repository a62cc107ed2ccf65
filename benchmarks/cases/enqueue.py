"""Enqueue, as the caller sees it: how long the call takes that hands a turn over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.cases import Plan
from benchmarks.limits import Insert
from benchmarks.peers import DEFAULTS, LOCKED, OURS, SHARDED, Peer
from benchmarks.placing import Placement, placements
from benchmarks.results import Bar, Figure, Kind, Table, figure
from benchmarks.world import World

TITLE = "Enqueue"
ABOUT = """
How long the agent waits in the call that hands a turn over: `sync_turn`, or what a contender has
in its place. It is on the user's path after every answer. hermes_tasks keeps the turn in a SQLite
file of its own and returns; a thread of it talks to Redis. The others talk to Redis
(procrastinate: to PostgreSQL) within the call, so they take as long as it does, and hang when it
does. A queue in memory with a thread is quicker still, and loses what it holds when its process
ends.

Calls are made one after another, as benchmarks do, and 2 ms apart, as a busy gateway does. Between
two of the latter the processor rests, and runs others' work: then a call pays for caches that are
cold, and whatever is done in it takes several times as long. The bars are those of calls one after
another.

The black hole is a Redis that takes connections and answers nobody, as a stopped machine does.
The limit is one insert into SQLite, at the same pace.
"""
#: Seconds between two calls: a busy gateway, not a flood.
PACE = 0.002
#: Seconds that calls into a black hole may take together, beyond their pace.
PATIENCE = 1.0
#: Sessions that the calls are of.
SESSIONS = 10
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
LIMIT = "SQLite insert"
#: They send with Celery's own `apply_async`: it is the worker that they set up in another way.
AS_CELERY = (DEFAULTS, SHARDED, LOCKED)


@dataclass(frozen=True, slots=True)
class Phase:
    """Some calls that a sender makes.

    Attributes:
        size: of the turns' text, in bytes.
        placement: of sender and server.
        pace: seconds between two calls.
        dead: the server is a black hole.
    """

    size: int
    placement: Placement
    pace: float = 0.0
    dead: bool = False

    @property
    def key(self) -> str:
        """For files."""
        state = "dead" if self.dead else self.placement.name.replace(" ", "-")
        return f"{self.size // 1000}k-{state}" + "-apart" * bool(self.pace)

    @property
    def title(self) -> str:
        """For a table."""
        state = "a black hole" if self.dead else f"healthy, {self.placement.name}"
        return f"A turn of {self.size // 1000} KB, Redis {state}, {self.how}"

    @property
    def how(self) -> str:
        """The pace."""
        return f"{self.pace * 1000:g} ms apart" if self.pace else "one after another"

    def patience(self, calls: int) -> float:
        """Seconds after which so many calls are given up."""
        return calls * self.pace + PATIENCE if self.dead else 60.0


def run(plan: Plan) -> Iterator[Table]:
    """Quantiles of the call in microseconds, by size, by where it runs, and by how Redis is."""
    calls = 500 if plan.full else 250
    phases = phases_of(plan)
    peers = [peer for peer in plan.peers if peer not in AS_CELERY]
    found = [
        (peer.name if peer else LIMIT, measure(peer, phases, calls))
        for _ in range(plan.runs)
        for peer in (*peers, None)
    ]
    for phase in phases:
        values = [(name, result[phase]) for name, result in found]
        figures = [figure(name, Kind("µs", True), values, LIMIT) for name in SHARES]
        yield Table(
            f"enqueue-{phase.key}",
            phase.title,
            figures,
            note=f"{calls:,} calls a run."
            + f" After {phase.patience(calls):g} s one that has not returned is given up, and "
            "counts with what it has taken." * phase.dead,
            bars=_bars(phase, figures) if phase.size == 1_000 and not phase.pace else [],
        )


def phases_of(plan: Plan) -> list[Phase]:
    """The healthy ones first: whoever hangs in a black hole has hung."""
    places = placements()
    phases = [Phase(1_000, place, pace) for pace in (0.0, PACE) for place in places]
    # What is long is bound by copying, not by where a core is woken.
    phases.append(Phase(50_000, places[-1]))
    phases.append(Phase(1_000, places[-1], dead=True))
    if plan.full:
        phases.append(Phase(1_000, places[-1], PACE, dead=True))
        phases.append(Phase(50_000, places[-1], dead=True))
    return phases


def _bars(phase: Phase, figures: list[Figure]) -> list[Bar]:
    most = {"p50": 60.0, "p99": 300.0}
    where = "black hole" if phase.dead else phase.placement.name
    return [
        Bar(f"µs of a call, {one.name}, {where}", one[OURS.name].median, at_most=most[one.name])
        for one in figures
        if one.name in most
    ]


def measure(
    peer: Peer | None, phases: list[Phase], calls: int
) -> dict[Phase, Mapping[str, float | None]]:
    """One run: microseconds of each phase. ``None`` is the limit."""
    if peer is None:
        return {
            # The median alone: the longest inserts tell of the disk's other users.
            phase: Insert(phase.size).quantiles({"p50": 0.5}, calls, phase.pace, phase.placement)
            for phase in phases
        }
    found: dict[Phase, Mapping[str, float | None]] = {}
    with World(peer) as world:
        sender = world.sender()
        for number, phase in enumerate(phases):
            world.place(sender, phase.placement)
            if phase.dead and peer.store:
                world.server.pause()
            sent = sender.go(
                sessions=SESSIONS,
                turns=calls // SESSIONS,
                size=phase.size,
                name=f"phase{number}-",
                pace=phase.pace,
                limit=phase.patience(calls),
                join=not phase.dead,
            )
            found[phase] = {name: sent.quantile(share) * 1e6 for name, share in SHARES.items()}
    return found
