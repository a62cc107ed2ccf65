"""What is read of a deployment for people and programs that watch it. Changes nothing.

None of it costs more with more sessions: nothing is scanned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote

from hermes_tasks.transport.answers import Doubt, Progress
from hermes_tasks.transport.scripts import run_all, script, session_script
from hermes_tasks.transport.sessions import SessionStore

#: Of so many sessions the lag is told that none of them exceeds.
SHARES = (0.5, 0.95, 0.99)

_COUNT = re.compile(r"-?\d{1,18}", re.ASCII)
_CURSOR = re.compile(r"\d{1,18}(\.\d+)?(e\+\d{1,2})? \S*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Counts:
    """A deployment in numbers, at one instant.

    Attributes:
        now: of Redis, ms.
        ready, leased, sleeping, paused: sessions. A paused one may have no messages.
        lagging: sessions that have messages.
        dead: dead letters.
        counters: since Redis was new.
        workers, gateways: what each last said of itself.
        lags: ms, of each of :data:`SHARES` and the longest; none where no session lags.
    """

    now: int
    ready: int
    leased: int
    sleeping: int
    paused: int
    lagging: int
    dead: int
    counters: dict[str, int]
    workers: dict[str, str]
    gateways: dict[str, str]
    lags: tuple[float, ...]

    @classmethod
    def parse(cls, answer: Sequence[Any]) -> Self:
        """What ``overview.lua`` answers."""
        now, ready, leased, sleeping, paused, lagging, dead, stats, workers, gateways, *sinces = (
            answer
        )
        return cls(
            now,
            ready,
            leased,
            sleeping,
            paused,
            lagging,
            dead,
            counters_of(stats),
            dict(_pairs(workers)),
            dict(_pairs(gateways)),
            tuple(max(0.0, now - float(since)) for since in sinces),
        )


def counters_of(flat: Sequence[bytes]) -> dict[str, int]:
    """A hash of counters, without what is none."""
    return {name: int(value) for name, value in _pairs(flat) if _COUNT.fullmatch(value)}


def unsettled(counters: Mapping[str, int]) -> int:
    """Messages that were accepted and are neither written nor given up.

    It is what the counters leave, so it costs a message nothing, and is right for those that were
    accepted by a version that did not know of it. ``uncounted`` is what ``check --repair`` found
    to be missing in them.
    """
    came = sum(counters.get(name, 0) for name in ("accepted", "dead_retried", "uncounted"))
    gone = counters.get("written", 0) + counters.get("purged", 0)
    return came - gone - sum(given_up(counters).values())


def given_up(counters: Mapping[str, int]) -> dict[str, int]:
    """Messages that were given up, by reason."""
    return {
        name.removeprefix("dead:"): count
        for name, count in sorted(counters.items())
        if name.startswith("dead:")
    }


def read_counts(store: SessionStore) -> Counts:
    """A deployment in numbers."""
    names = store.names
    keys = (
        names.ready,
        names.leases,
        names.sleeping,
        names.paused,
        names.lagging,
        names.dead,
        names.stats,
        names.workers,
        names.gateways,
    )
    return Counts.parse(script("overview", reads=True)(store.client, keys, SHARES))


def page_of(
    store: SessionStore, members: str, limit: int, cursor: str = ""
) -> tuple[list[str], str]:
    """Sessions of one of the sorted sets, lowest score first, and the cursor of what follows.

    Args:
        store: the sessions of the deployment.
        members: key of the set.
        limit: most sessions, at least 1.
        cursor: as returned before; ``""``: from the first on.

    Raises:
        ValueError: the cursor is none.
    """
    score, _, last = cursor.partition(" ")
    if cursor and not _CURSOR.fullmatch(cursor):
        raise ValueError(f"no cursor of a page: {cursor!r}")
    answer = script("page", reads=True)(store.client, [members], [limit, score, unquote(last)])
    sessions = [name.decode() for name in answer[::2]]
    if len(sessions) < limit:
        return sessions, ""
    return sessions, f"{answer[-1].decode()} {quote(sessions[-1])}"


def progress_of(store: SessionStore, sessions: Sequence[str]) -> list[Progress]:
    """How far each of these sessions is, in one round trip."""
    script = session_script("progress", reads=True)
    calls = [(store.names.session(session), (session, "")) for session in sessions]
    return [Progress.parse(answer) for answer in run_all(store.client, script, calls)]


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message of a queue, without its text.

    Attributes:
        number: its place in its session.
        size: as its sender gave it.
        since: when it was accepted or, if it was delayed, became due; ms of Redis time.
        place: ``inflight``, ``backlog`` or ``waiting``.
    """

    number: int
    id: str
    size: int
    since: int
    place: str


@dataclass(frozen=True, slots=True)
class Queued:
    """What is queued in a session.

    Attributes:
        written: the highest number that is.
        doubt: calls that may have been made for what is queued.
        worker: that has the session, as ``host:process``; else empty.
        messages: oldest first, those that can be read.
    """

    written: int
    doubt: Doubt | None
    worker: str
    messages: tuple[QueuedMessage, ...]


def queued_in(store: SessionStore, session: str, limit: int) -> Queued:
    """What is queued in a session, the oldest ``limit`` messages of it."""
    written, intent, worker, *lists = session_script("queued", reads=True)(
        store.client, store.names.session(session), (session, limit)
    )
    messages = []
    for place, *outlines in lists:
        for outline in outlines:
            if outline:
                number, id, size, _kind, since = outline.decode().split(" ")
                at = int(since.rstrip("+"))
                messages.append(
                    QueuedMessage(int(number), unquote(id), int(size), at, place.decode())
                )
    return Queued(written, Doubt.parse(intent), worker.decode(), tuple(messages))


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    texts = [text.decode(errors="replace") for text in flat]
    return zip(texts[::2], texts[1::2], strict=True)
