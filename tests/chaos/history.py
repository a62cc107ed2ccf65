"""What happened in a run, as those saw it who are not the product: plain data for the checker.

All times are seconds of :func:`time.monotonic`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Offer:
    """A turn that a gateway process gave to the product.

    Attributes:
        gateway: the gateway's name, the same over its restarts.
        turn: its id.
        parts: messages in it.
        at: when it was given.
        accepted: when the product had said yes; ``None``: the process was killed before it could.
    """

    gateway: str
    session: str
    turn: str
    parts: int
    at: float
    accepted: float | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """A message that the stand-in stored.

    Attributes:
        turn: the turn that its text names.
        part: its place in the turn, by its text.
        started: when its call was begun, as seen at the worker's end of the network.
        at: when it was stored.
        place: its place among those that were stored at the same time, in one call.
    """

    session: str
    turn: str
    part: int
    started: float
    at: float
    place: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that writes to a session, as seen at the worker's end of the network.

    Attributes:
        status: of the answer that came through; ``None``: none did.
    """

    session: str
    started: float
    status: int | None


@dataclass(frozen=True, slots=True)
class Letter:
    """A turn that the product gave up."""

    session: str
    turn: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the deployment.

    Attributes:
        what: in one line.
        begun, over: when.
        backend: the service could not be reached, or failed: the breaker may have opened.
        forgets: another Redis process answers since: nobody knows which calls were open.
    """

    what: str
    begun: float
    over: float
    backend: bool = False
    forgets: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """The most messages of one session that were seen in its queue and in its backlog."""

    session: str
    waiting: int
    backlog: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the deployment was told, in seconds and messages, and what the run provokes.

    Attributes:
        lease: a worker's right to a session.
        ceiling: longest time of a call.
        landing: how much later than that a call is waited for.
        probe: between a backend's outage and the first look whether it is back.
        queue, backlog: most messages of one session in each.
        reasons: of dead letters that are no surprise.
    """

    lease: float
    ceiling: float
    landing: float
    probe: float
    queue: int
    backlog: int
    reasons: frozenset[str] = frozenset()


@dataclass(slots=True)
class History:
    """A run.

    Attributes:
        ended: when it was looked at for the last time.
        fallen: processes that had ended by then, and should not have.
        left: sessions that still had messages in Redis.
        unsound: what ``hermes-tasks check`` found in the end, a line each.
    """

    offers: list[Offer] = field(default_factory=list)
    landings: list[Landing] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    depths: list[Depth] = field(default_factory=list)
    ended: float = 0.0
    fallen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)

    def of_session(self, session: str, since: float = 0.0) -> list[str]:
        """Everything about one session, a line each, by time counted from ``since``."""
        events: list[tuple[float, str]] = []
        for offer in self.offers:
            if offer.session == session:
                said = "accepted" if offer.accepted else "offered"
                events.append((offer.at, f"{offer.gateway} {said} {offer.turn} ({offer.parts})"))
        for landing in self.landings:
            if landing.session == session:
                took = landing.at - landing.started
                what = f"stored {landing.turn}#{landing.part}, {took:.2f} s after its call began"
                events.append((landing.at, what))
        events += [
            (call.started, f"call, answered {call.status}")
            for call in self.calls
            if call.session == session
        ]
        events += [
            (letter.at, f"dead letter {letter.turn}: {letter.reason}")
            for letter in self.letters
            if letter.session == session
        ]
        for fault in self.faults:
            events += [(fault.begun, f"-- {fault.what}"), (fault.over, f"-- over: {fault.what}")]
        return [f"{at - since:8.3f}  {what}" for at, what in sorted(events)]


def offers_of(gateway: str, lines: Iterable[dict[str, Any]]) -> list[Offer]:
    """The offers of a gateway from the lines it wrote: one before each turn, one after."""
    offers: dict[str, Offer] = {}
    for line in lines:
        turn = line["turn"]
        if "session" in line:
            offers[turn] = Offer(gateway, line["session"], turn, line["parts"], line["at"])
        else:
            offers[turn] = replace(offers[turn], accepted=line["at"])
    return list(offers.values())


def as_json(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Plain data of any of these classes."""
    return [asdict(item) for item in items]
