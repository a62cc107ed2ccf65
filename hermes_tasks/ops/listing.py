"""Sessions for people: a page of them, or one with what is queued in it. Never a word of a turn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from hermes_tasks.transport import Progress, SessionStore
from hermes_tasks.transport.answers import Doubt
from hermes_tasks.transport.reading import page_of, progress_of, queued_in
from hermes_tasks.transport.trace import readable

#: The states by which sessions can be listed.
STATES = ("ready", "leased", "sleeping", "held", "paused")
#: Most sessions on a page.
MOST = 1_000

_HELD_CURSOR = re.compile(r"\S+ \S+ \d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session that has turns to write, or is paused.

    Attributes:
        session: its name.
        state: ``idle`` or one of :data:`STATES`.
        lag: seconds since its oldest unsettled turn was accepted or, if that was delayed, became
            due; ``None`` if it has none.
        inflight: turns that a worker has taken and not settled.
        waiting: turns behind them, within the bound.
        backlog: turns that overflowed.
        attempts: failed ones of the oldest turn, in a row.
        wakes_in: seconds until it wakes, if it sleeps; 0 if that time has come.
        paused: whether it is, or will be when its worker is done with it.
    """

    session: str
    state: str
    lag: float | None
    inflight: int
    waiting: int
    backlog: int
    attempts: int
    wakes_in: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, and where the next ones begin.

    Attributes:
        rows: of the sessions.
        cursor: to be given for the next page; empty on the last one.
    """

    rows: tuple[SessionRow, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class QueuedTurn:
    """A turn that is not settled, without its text.

    Attributes:
        number: its place among all turns of its session.
        id: of the turn.
        size: how many messages it is.
        age: seconds since it was accepted or, if it was delayed, became due.
        place: ``in flight``, ``backlog`` or ``waiting``.
    """

    number: int
    id: str
    size: int
    age: float
    place: str


@dataclass(frozen=True, slots=True)
class SessionDetail(SessionRow):
    """A session in full.

    Attributes:
        accepted: number of the newest turn.
        written: the highest number of a turn that is.
        worker: that has the session, as ``host:process``; else empty.
        doubt: calls of which nobody knows whether they have written.
        trace: what its oldest turn went through, a line each, oldest first.
        turns: the oldest unsettled ones.
    """

    accepted: int
    written: int
    worker: str
    doubt: Doubt | None
    trace: tuple[str, ...]
    turns: tuple[QueuedTurn, ...]


def list_sessions(
    store: SessionStore, *, cursor: str = "", limit: int = 50, state: str | None = None
) -> Page:
    """Sessions that have turns to write, longest lag first; or those in one state.

    Those of a state come in its own order: ``ready`` and ``held`` by who is next, ``leased`` by
    when the lease ends, ``sleeping`` by who wakes first, ``paused`` by who was paused first. A
    session that changes while it is read may be missing on a page, which is then shorter: only an
    empty cursor is the end.

    Args:
        store: the sessions of the deployment.
        cursor: of the page before.
        limit: most sessions, 1 to 1,000.
        state: one of :data:`STATES`.

    Raises:
        ValueError: no such cursor, limit or state.
        redis.exceptions.RedisError: Redis does not answer, or refuses us.
    """
    if not 1 <= limit <= MOST:
        raise ValueError(f"a page has 1 to {MOST} sessions, not {limit}")
    sessions, following = names_in(store, state, limit, cursor)
    paused = _paused(store, sessions)
    rows = [
        _row(session, progress, is_paused)
        for session, progress, is_paused in zip(
            sessions, progress_of(store, sessions), paused, strict=True
        )
    ]
    return Page(tuple(row for row in rows if _is_listed(row, state)), following)


def names_in(
    store: SessionStore, state: str | None, limit: int, cursor: str
) -> tuple[list[str], str]:
    """The names of a page of :func:`list_sessions`, and the cursor of the next one.

    Raises:
        ValueError: no such cursor or state.
    """
    names = store.names
    if state == "held":
        return _held(store, limit, cursor)
    ordered = {
        None: names.lagging,
        "ready": names.ready,
        "leased": names.leases,
        "sleeping": names.sleeping,
        "paused": names.paused,
    }
    if state not in ordered:
        raise ValueError(f"no state: {state!r}; one of {', '.join(STATES)}")
    return page_of(store, ordered[state], limit, cursor)


def read_session(store: SessionStore, session: str, *, turns: int = 50) -> SessionDetail | None:
    """One session, and the first of its turns; ``None`` if Redis knows nothing of it.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses us.
    """
    (progress,) = progress_of(store, [session])
    queued, (paused,) = queued_in(store, session, turns), _paused(store, [session])
    if progress.state == "idle" and not progress.accepted and not paused:
        return None
    row = _row(session, progress, paused)
    return SessionDetail(
        **{name: getattr(row, name) for name in SessionRow.__dataclass_fields__},
        accepted=progress.accepted,
        written=queued.written,
        worker=queued.worker,
        doubt=queued.doubt,
        trace=tuple(readable(progress.trace)),
        turns=tuple(
            QueuedTurn(
                message.number,
                message.id,
                message.size,
                max(0.0, (progress.now_ms - message.since) / 1000),
                "in flight" if message.place == "inflight" else message.place,
            )
            for message in queued.messages
        ),
    )


def _row(session: str, progress: Progress, paused: bool) -> SessionRow:
    now, since, wake_at = progress.now_ms, progress.since_ms, progress.wake_at_ms
    return SessionRow(
        session,
        progress.state,
        None if since is None else max(0.0, (now - since) / 1000),
        progress.inflight,
        progress.waiting,
        progress.backlog,
        progress.attempts,
        None if wake_at is None else max(0.0, (wake_at - now) / 1000),
        paused,
    )


def _is_listed(row: SessionRow, state: str | None) -> bool:
    """Whether it still is what it was when its name was read."""
    if state is None:
        return row.state != "idle" or row.lag is not None
    return row.paused if state == "paused" else row.state == state


def _paused(store: SessionStore, sessions: list[str]) -> list[bool]:
    if not sessions:
        return []
    found: Any = store.client.zmscore(store.names.paused, sessions)
    return [score is not None for score in found]


def _held(store: SessionStore, limit: int, cursor: str) -> tuple[list[str], str]:
    """Sessions held at the gates, gate by gate, and the cursor of what follows."""
    client, names = store.client, store.names
    last_gate, last, place = "", "", 0
    if cursor:
        if not _HELD_CURSOR.fullmatch(cursor):
            raise ValueError(f"no cursor of a page of held sessions: {cursor!r}")
        quoted_gate, quoted, number = cursor.split(" ")
        last_gate, last, place = unquote(quoted_gate), unquote(quoted), int(number)
    listed: Any = client.zrange(names.gates, 0, -1)
    sessions: list[str] = []
    for gate in sorted(name.decode() for name in listed):
        if gate < last_gate:
            continue
        held, start = names.gate(gate)[1], 0
        if gate == last_gate:
            # A gate lets go from the front. When this one has gone, and maybe come back to the
            # tail, so have all before it.
            at: Any = client.lpos(held, last)
            start = at + 1 if at is not None and at <= place else 0
        end = start + limit - len(sessions) - 1
        found: Any = client.lrange(held, start, end)
        sessions += [name.decode() for name in found]
        if len(sessions) == limit:
            return sessions, f"{quote(gate)} {quote(sessions[-1])} {end}"
    return sessions, ""
