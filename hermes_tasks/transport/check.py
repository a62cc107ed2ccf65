"""What must hold of every session, checked on a live deployment, and put right where it does not.

:func:`known_sessions` finds the sessions, :func:`look` reads each of them at one instant,
:func:`faults` says what is wrong with one, and :func:`repair` puts it right. Nothing here reads a
message: only its number and its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, pairwise
from typing import Any, NamedTuple, Self

from redis.exceptions import ResponseError

from hermes_tasks.transport.scripts import session_script, try_all
from hermes_tasks.transport.sessions import SessionStore

#: Seconds that a lease may have run out, or a sleeper be due: a worker looks four times a second.
UNATTENDED = 30.0
#: The states of a session, and the sorted set that each of them stands in.
SETS = {"ready": "ready", "leased": "leases", "sleeping": "sleeping"}
STATES = frozenset({"idle", "held", "paused", *SETS})
#: Fields of a session's hash that are numbers.
NUMBERS = ("accepted", "settled", "written", "since", "attempts", "most", "tries", "paused", "due")

#: Keys, run-queue entries or sessions that are asked for at once.
_PAGE = 1_000
_BATCH = 100


class Fault(StrEnum):
    """What is wrong. All but the last two can be repaired."""

    STATE = "state"
    QUEUE = "run queue"
    HELD = "held"
    ORDER = "order"
    IDS = "ids"
    COUNT = "count"
    EXPIRY = "expiry"
    LAG = "lag"
    UNREADABLE = "unreadable"
    GATE = "gate"
    UNATTENDED = "unattended"
    TYPE = "type"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a session or a gate.

    Attributes:
        where: the name of the session, or of the gate.
        fault: what it is.
        text: that in words, without any content.
        stamp: changes when it is no longer the same thing that is found a second time.
    """

    where: str
    fault: Fault
    text: str
    stamp: str = ""

    def is_again(self, other: Finding) -> bool:
        """Whether it is what ``other``, an earlier look, found already."""
        return (self.where, self.fault, self.stamp) == (other.where, other.fault, other.stamp)


class Outline(NamedTuple):
    """A message of a queue: number, id and the ms since when it waits, as Redis has them."""

    number: int
    id: str
    since: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One session as it was at one instant. Times are milliseconds of the Redis clock.

    Attributes:
        fields: of its hash; none for a session that has no hash.
        ttl: until the hash is forgotten, -1: never, -2: there is none.
        ids: of its queued messages, as their set has them.
        inflight, backlog, waiting: the lists, oldest first; ``None`` for what cannot be read.
        scores: in the sorted sets, by the state each stands for, where it is in them.
        paused: it is in the set of paused sessions.
        lagging: ms since when it lags, by the order of those that do; ``None``: it is not in it.
    """

    session: str
    now: int
    fields: Mapping[str, str]
    ttl: int
    ids: frozenset[str]
    inflight: tuple[Outline | None, ...]
    backlog: tuple[Outline | None, ...]
    waiting: tuple[Outline | None, ...]
    scores: Mapping[str, float]
    paused: bool
    lagging: float | None

    @classmethod
    def parse(cls, session: str, answer: Sequence[Any]) -> Self:
        """What ``check.lua`` answers."""
        now, flat, ttl, ids, inflight, backlog, waiting, *scores, paused, lagging = answer
        pairs = iter([text.decode(errors="replace") for text in flat])
        return cls(
            session,
            now,
            dict(zip(pairs, pairs, strict=True)),
            ttl,
            frozenset(id.decode(errors="replace") for id in ids),
            tuple(map(_outline, inflight)),
            tuple(map(_outline, backlog)),
            tuple(map(_outline, waiting)),
            {state: float(score) for state, score in zip(SETS, scores, strict=True) if score},
            paused is not None,
            None if lagging is None else float(lagging),
        )

    @property
    def state(self) -> str:
        return self.fields.get("state", "idle")

    @property
    def items(self) -> list[Outline]:
        """What is queued and can be read, oldest first."""
        return [item for item in (*self.inflight, *self.backlog, *self.waiting) if item]

    @property
    def is_known(self) -> bool:
        """Whether Redis has anything of it."""
        found = (self.fields, self.items, self.ids, self.scores, self.unreadable)
        return any(found) or self.paused or self.lagging is not None

    @property
    def unreadable(self) -> int:
        """How many entries cannot be read."""
        return [*self.inflight, *self.backlog, *self.waiting].count(None)


@dataclass(frozen=True, slots=True)
class Repaired:
    """What ``repair`` did.

    Attributes:
        state: of the session now; ``leased`` if a worker has it, and nothing was done.
        queued: messages in its queue.
        unreadable: entries that nobody can read, and that are dead letters now.
    """

    state: str
    queued: int
    unreadable: int


def known_sessions(store: SessionStore) -> set[str]:
    """Every session of which Redis has anything but a run-queue entry, which may be an old one."""
    names, found = store.names, set[str]()
    for key in store.client.scan_iter(names.every("session"), count=_PAGE):
        session = names.session_of_key(key.decode(errors="replace"))
        if session is not None:
            found.add(session)
    for members in (names.ready, names.leases, names.sleeping, names.paused, names.lagging):
        in_set: Any = store.client.zrange(members, 0, -1)
        found.update(name.decode(errors="replace") for name in in_set)
    return found


def look(store: SessionStore, sessions: Iterable[str]) -> Iterator[Snapshot | Finding]:
    """Each of these sessions as it is, or why it cannot be read."""
    script, rest = session_script("check", reads=True), iter(sessions)
    while batch := list(islice(rest, _BATCH)):
        calls = [(store.names.session(session), (session,)) for session in batch]
        for session, answer in zip(batch, try_all(store.client, script, calls), strict=True):
            if isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer):
                yield Finding(session, Fault.TYPE, "one of its keys is not of the type it must be")
            elif isinstance(answer, Exception):
                raise answer
            else:
                yield Snapshot.parse(session, answer)


def run_queue(store: SessionStore) -> dict[str, int]:
    """The newest entry of each session on the run queue: its number."""
    newest: dict[str, int] = {}
    start = 0
    # From the newest on: what is pushed meanwhile moves the others on, and none is missed.
    while page := store.client.lrange(store.names.run, start, start + _PAGE - 1):
        start += _PAGE
        for entry in page:
            try:
                number, session = json.loads(entry)
                newest[session] = max(int(number), newest.get(session, 0))
            except (ValueError, TypeError):
                continue  # a foreign entry; workers drop it with an error
    return newest


def faults(
    seen: Snapshot, queued: Mapping[str, int], holders: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """What is wrong with a session.

    A session moves on while others are read: what is about the run queue or about holders is only
    wrong if it is found again, with the same stamp, after the keeper had time to help.

    Args:
        seen: the session.
        queued: the newest number of each session on the run queue, read after it.
        holders: who holds each session that is held, by name, read after it.
    """
    for fault, text, stamp in (
        *_state_faults(seen),
        *_place_faults(seen, queued.get(seen.session), holders.get(seen.session, ())),
        *_queue_faults(seen),
        *_hash_faults(seen),
        *_lag_faults(seen),
        *_unattended(seen),
    ):
        yield Finding(seen.session, fault, text, stamp)


_Said = tuple[Fault, str, str]


def _state_faults(seen: Snapshot) -> Iterator[_Said]:
    state = seen.state
    if state not in STATES:
        yield Fault.STATE, f"its state is {state!r}, which is none", ""
    for other in SETS:
        if other == state and other not in seen.scores:
            yield Fault.STATE, f"is {state}, but not in {SETS[other]}", ""
        elif other != state and other in seen.scores:
            yield Fault.STATE, f"is {state}, and in {SETS[other]} as well", ""
    if state == "leased" and "token" not in seen.fields:
        yield Fault.STATE, "is leased to nobody", ""
    elif state != "leased" and "token" in seen.fields:
        yield Fault.STATE, f"is {state}, and leased as well", ""
    is_paused = "paused" in seen.fields
    if is_paused != seen.paused:
        where = "but not in paused" if is_paused else "but not by its hash"
        yield Fault.STATE, f"is paused, {where}", ""
    elif is_paused and state not in ("paused", "leased", "held"):
        yield Fault.STATE, f"is {state}, and paused as well", ""
    elif state == "paused" and not is_paused:
        yield Fault.STATE, "is paused by nobody", ""
    if state == "idle" and seen.items:
        yield Fault.STATE, f"is idle, with messages queued: {len(seen.items)}", ""


def _place_faults(seen: Snapshot, number: int | None, holders: Sequence[str]) -> Iterator[_Said]:
    since = seen.fields.get("since", "")
    if seen.state == "ready" and (not since.isdecimal() or number is None or number < int(since)):
        yield Fault.QUEUE, "is ready, but not on the run queue", since
    if seen.state == "held":
        if len(holders) != 1:
            where = f"at {len(holders)} places: {', '.join(holders)}" if holders else "by no gate"
            yield Fault.HELD, f"is held {where}", since
    elif holders:
        yield Fault.HELD, f"is {seen.state}, and held by {', '.join(holders)}", since


def _queue_faults(seen: Snapshot) -> Iterator[_Said]:
    items = seen.items
    if seen.unreadable:
        yield Fault.UNREADABLE, f"cannot be read: {seen.unreadable} entries of its queue", ""
    if any(a.number >= b.number for a, b in pairwise(items)):
        yield Fault.ORDER, "its messages are not in order", ""
    ids = {item.id for item in items}
    if len(ids) < len(items):
        yield Fault.IDS, f"queued twice: {len(items) - len(ids)} of its messages", ""
    if ids - seen.ids:
        yield Fault.IDS, f"not among its ids: {len(ids - seen.ids)} of its messages", ""
    if seen.ids - ids:
        yield Fault.IDS, f"of no queued message: {len(seen.ids - ids)} of its ids", ""


def _hash_faults(seen: Snapshot) -> Iterator[_Said]:
    fields = seen.fields
    bad = [name for name in NUMBERS if not fields.get(name, "0").isdecimal()]
    if not re.fullmatch(r"(\d+ ){3}\d+", fields.get("intent", "0 0 0 0")):
        bad.append("intent")
    if bad:
        yield Fault.UNREADABLE, f"cannot be read: {', '.join(bad)}, of its hash", ""
    if not {"accepted", "settled", "written"} & set(bad):
        accepted, settled, written = (
            int(fields.get(name, "0")) for name in ("accepted", "settled", "written")
        )
        queued = len(seen.items) + seen.unreadable
        if accepted - settled != queued:
            counted = f"{accepted} accepted, {settled} settled"
            yield Fault.COUNT, f"{counted}, but {queued} are queued", ""
        if max([written, *(item.number for item in seen.items)]) > accepted:
            yield Fault.COUNT, f"has a message of a number above its last, {accepted}", ""
    if seen.state == "idle" and seen.ttl == -1:
        yield Fault.EXPIRY, "is idle, but will never be forgotten", ""
    elif seen.state != "idle" and seen.ttl >= 0:
        yield Fault.EXPIRY, "is not idle, but will be forgotten", ""


def _lag_faults(seen: Snapshot) -> Iterator[_Said]:
    # While a worker has it and nothing is in flight, it lags as what was in flight did.
    if seen.unreadable or (seen.state == "leased" and not seen.inflight):
        return
    since = seen.items[0].since if seen.items else None
    if seen.lagging != since:
        if since is None:
            text = "is listed as one that lags, with nothing queued"
        elif seen.lagging is None:
            text = "is not listed among those that lag"
        else:
            text = f"lags {(seen.lagging - since) / 1000:+.1f} s from the age of its oldest message"
        yield Fault.LAG, text, str(seen.lagging)


def _unattended(seen: Snapshot) -> Iterator[_Said]:
    lease, wake = seen.scores.get("leased"), seen.scores.get("sleeping")
    for what, time in (("its lease ran out", lease), ("it should have woken", wake)):
        late = (seen.now - time) / 1000 if time is not None else 0.0
        if late > UNATTENDED:
            yield Fault.UNATTENDED, f"{what} {late:.0f} s ago: no worker looks after it", str(time)


def repair(store: SessionStore, session: str, lists: Sequence[str]) -> Repaired:
    """Put one session right, without losing or reordering a message.

    Args:
        store: the sessions of the deployment.
        session: the one.
        lists: every list in which held sessions stand.
    """
    keys = (*store.names.session(session), *lists)
    arguments = (session, store.options.waiting_limit, store.options.landing_ms)
    state, queued, unreadable = session_script("repair")(store.client, keys, arguments)
    return Repaired(state.decode(), queued, unreadable)


def relag(store: SessionStore, session: str) -> Repaired:
    """Put one session at its place in the order of those that lag; nothing else is touched."""
    script, keys = session_script("relag"), store.names.session(session)
    state, queued = script(store.client, keys, (session,))
    return Repaired(state.decode(), queued, 0)


def _outline(raw: bytes) -> Outline | None:
    if not raw:
        return None
    number, id, _size, _kind, since, *_rest = raw.decode(errors="replace").split(" ")
    return Outline(int(number), id, int(since.rstrip("+")))
