"""What a history says about the promises: pure functions that share no code with the product."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.history import Call, Fault, History, Landing, Letter, Limits, Offer

MARGIN = 5.0
"""Seconds that a session may take to go on, beyond what it had to wait for."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A session that had something to write, and wrote nothing.

    Attributes:
        begun: when it last wrote something, or got something to write.
        ended: when it wrote, or when the run ended.
        seconds: of it, since the latest fault was over.
        due: when it should have gone on.
    """

    session: str
    begun: float
    ended: float
    seconds: float
    due: float

    @property
    def is_too_long(self) -> bool:
        return self.ended > self.due


Landings = dict[str, dict[int, list[Landing]]]
"""What was stored of each part of each turn."""


@dataclass(slots=True)
class Verdict:
    """What became of the turns. Every list names what is wrong, and is empty where nothing is.

    Attributes:
        accepted: turns that a gateway accepted.
        written: of them, those that are stored whole.
        lost: of them, those that are neither stored nor dead letters.
        explained: messages stored more than once, or though they were given up meanwhile, because a
            call landed later than promised.
        twice: messages stored more than once without that.
        out_of_order: messages stored behind one that its gateway accepted later.
        unknown: messages that nobody offered.
        dead: turns given up, by reason.
        surprises: turns given up for a reason that nothing in the run gave.
        undead: turns that are dead letters and stored whole.
        overfull: sessions whose queue or backlog was beyond its bound.
        fallen: processes that ended by themselves.
        left: sessions that still had messages in Redis when everything was over.
        unsound: what an operator's check of the deployment found.
        stalls: of every session, the longest.
        too_long: every stall that was.
        concerned: sessions in which anything is wrong.
    """

    accepted: int = 0
    written: int = 0
    lost: list[str] = field(default_factory=list)
    explained: int = 0
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    dead: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    undead: list[str] = field(default_factory=list)
    overfull: list[str] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    too_long: list[Stall] = field(default_factory=list)
    concerned: set[str] = field(default_factory=set)

    @property
    def longest(self) -> float:
        """Seconds of the longest stall after a fault was over."""
        return max((stall.seconds for stall in self.stalls), default=0.0)

    def problems(self) -> list[str]:
        """A line for every promise that was broken; empty: none was."""
        found = {
            "lost": self.lost,
            "twice, unexplained": self.twice,
            "out of order": self.out_of_order,
            "stored, but never offered": self.unknown,
            "given up for no reason": self.surprises,
            "given up, but stored": self.undead,
            "beyond its bound": self.overfull,
            "ended by itself": self.fallen,
            "still queued": self.left,
            "unsound": self.unsound,
            "stalled too long": [
                f"{s.session} ({s.seconds:.1f} s, {s.ended - s.due:.1f} s too late)"
                for s in self.too_long
            ],
        }
        return [f"{what}: {_some(items)}" for what, items in found.items() if items]

    def report(self) -> str:
        """What a run prints."""
        dead = ", ".join(f"{n} {reason}" for reason, n in sorted(self.dead.items()))
        return (
            f"accepted {self.accepted}, written {self.written}, lost {len(self.lost)}, "
            f"twice {len(self.twice)} (and {self.explained} explained), "
            f"out of order {len(self.out_of_order)}, dead {dead or 0}, "
            f"longest stall {self.longest:.1f} s"
        )


def check(history: History, limits: Limits) -> Verdict:
    """Hold a history against the promises."""
    verdict = Verdict(fallen=history.fallen, left=history.left, unsound=history.unsound)
    offers = {offer.turn: offer for offer in history.offers}
    landings: Landings = defaultdict(lambda: defaultdict(list))
    dead = {letter.turn for letter in history.letters}
    for landing in history.landings:
        offer = offers.get(landing.turn)
        if landing.turn in dead and _is_late(landing, limits):
            verdict.explained += 1
            continue
        if offer is None or offer.session != landing.session or landing.part >= offer.parts:
            verdict.unknown.append(f"{landing.turn}#{landing.part}")
            verdict.concerned.add(landing.session)
        landings[landing.turn][landing.part].append(landing)
    _count(verdict, history, limits, landings)
    _find_twice(verdict, limits, landings)
    _find_out_of_order(verdict, history, landings)
    verdict.overfull = [
        f"{depth.session} ({depth.waiting} waiting, {depth.backlog} in its backlog)"
        for depth in history.depths
        if depth.waiting > limits.queue or depth.backlog > limits.backlog
    ]
    settled = dict(_settled(history, landings))
    by_session: dict[str, list[Offer]] = defaultdict(list)
    for offer in history.offers:
        if offer.accepted is not None:
            by_session[offer.session].append(offer)
    for session in by_session:
        stalls = list(_stalls(session, by_session[session], settled, history, limits))
        if stalls:
            verdict.stalls.append(max(stalls, key=lambda stall: stall.seconds))
        verdict.too_long += [stall for stall in stalls if stall.is_too_long]
    verdict.concerned.update(verdict.left, (stall.session for stall in verdict.too_long))
    return verdict


def _count(verdict: Verdict, history: History, limits: Limits, landings: Landings) -> None:
    """What became of each turn."""
    dead: dict[str, Letter] = {letter.turn: letter for letter in history.letters}
    verdict.dead = Counter(letter.reason for letter in dead.values())
    for letter in dead.values():
        if letter.reason not in limits.reasons:
            verdict.surprises.append(f"{letter.turn} ({letter.reason})")
            verdict.concerned.add(letter.session)
    for offer in history.offers:
        whole = len(landings.get(offer.turn, ())) >= offer.parts
        if whole and offer.turn in dead:
            verdict.undead.append(offer.turn)
            verdict.concerned.add(offer.session)
        if offer.accepted is None:
            continue
        verdict.accepted += 1
        if whole:
            verdict.written += 1
        elif offer.turn not in dead:
            verdict.lost.append(offer.turn)
            verdict.concerned.add(offer.session)


def _is_late(landing: Landing, limits: Limits) -> bool:
    """Whether a call landed later than the product promises to wait."""
    return landing.at - landing.started > limits.ceiling + limits.landing


def _find_twice(verdict: Verdict, limits: Limits, landings: Landings) -> None:
    """A message may be stored once, and once more for each call that landed too late."""
    for turn, parts in landings.items():
        for part, stored in parts.items():
            late = sum(_is_late(landing, limits) for landing in stored)
            if len(stored) - late > 1:
                verdict.twice.append(f"{turn}#{part}")
                verdict.concerned.add(stored[0].session)
            elif len(stored) > 1:
                verdict.explained += 1


def _find_out_of_order(verdict: Verdict, history: History, landings: Landings) -> None:
    """A gateway's messages to a session are first stored in the order in which it gave them."""
    newest: dict[tuple[str, str], tuple[tuple[float, int], str]] = {}
    for offer in history.offers:  # in the order of the gateway that made them
        for part, stored in sorted(landings.get(offer.turn, {}).items()):
            first = min((landing.at, landing.place) for landing in stored)
            before = newest.get((offer.gateway, offer.session))
            if before is not None and first < before[0]:
                verdict.out_of_order.append(f"{offer.turn}#{part} before {before[1]}")
                verdict.concerned.add(offer.session)
            else:
                newest[offer.gateway, offer.session] = (first, f"{offer.turn}#{part}")


def _settled(history: History, landings: Landings) -> Iterator[tuple[str, float]]:
    """When each turn was stored whole or given up."""
    dead = {letter.turn: letter.at for letter in history.letters}
    for offer in history.offers:
        parts = landings.get(offer.turn, {})
        if len(parts) >= offer.parts:
            yield offer.turn, max(min(each.at for each in stored) for stored in parts.values())
        elif offer.turn in dead:
            yield offer.turn, dead[offer.turn]


def _stalls(
    session: str, offers: list[Offer], settled: dict[str, float], history: History, limits: Limits
) -> Iterator[Stall]:
    """The times in which a session had something to write, from one write to the next."""
    changes = [(offer.accepted or offer.at, 1) for offer in offers]
    changes += [(settled[offer.turn], -1) for offer in offers if offer.turn in settled]
    calls = [call for call in history.calls if call.session == session]
    landed = [landing for landing in history.landings if landing.session == session]
    pending, begun = 0, 0.0
    for at, change in sorted(changes):
        if pending > 0 and change < 0:
            yield _stall(session, begun, at, calls, landed, history.faults, limits)
        if pending <= 0 or change < 0:
            begun = at
        pending += change
    if pending > 0:
        yield _stall(session, begun, history.ended, calls, landed, history.faults, limits)


def _stall(
    session: str,
    begun: float,
    ended: float,
    calls: list[Call],
    landed: list[Landing],
    faults: list[Fault],
    limits: Limits,
) -> Stall:
    """How long a session waited, and how long it might have.

    It goes on within lease + 5 s after it had reason to, or after a fault was over; within ceiling
    + landing + 5 s where a call was open that may still have landed. After another Redis process
    answers, nobody knows whether one was: it may have forgotten its last second. A backend's outage
    counts as over when its breaker must have looked: after as long again, and the time to its first
    look.
    """
    over = max((fault.over for fault in faults if fault.over <= ended), default=0.0)
    calm = max(begun, over)
    allowed = limits.lease + MARGIN
    waited_for = limits.ceiling + limits.landing
    if any(_open(call, calm, landed, limits) for call in calls if call.started <= ended) or any(
        fault.forgets and fault.over + waited_for > calm for fault in faults if fault.over <= ended
    ):
        allowed = max(allowed, waited_for + MARGIN)
    well = begun
    for fault in faults:
        if fault.begun <= ended:
            outage = limits.probe + fault.over - fault.begun if fault.backend else 0.0
            well = max(well, fault.over + outage)
    return Stall(session, begun, ended, max(0.0, ended - calm), well + allowed)


def _open(call: Call, at: float, landed: list[Landing], limits: Limits) -> bool:
    """Whether nobody could know, at a time, what had become of a call."""
    known = call.status is not None and call.status not in (408, 502, 504)
    waited_for = call.started + limits.ceiling + limits.landing
    stored = any(landing.started == call.started and landing.at <= at for landing in landed)
    return not known and not stored and waited_for > at


def _some(items: list[str]) -> str:
    """A list to be read: not more than one wants to."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return f"{len(items)}: " + ", ".join(items[:8]) + more
