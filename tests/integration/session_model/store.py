"""The sessions that the machine works on, and what Redis holds of them.

Holding sessions is left to whoever uses the transport; ``HOLD`` and ``RESUME`` are the least of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from hermes_tasks.transport import scripts
from hermes_tasks.transport.answers import Item
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.steering import Dropped, Steering, Woken
from tests.integration.editing import ANNOUNCED

#: Names whose keys would meet if names were put into keys as they are.
SESSIONS = ("ü %3A\n", "ü %3A\n:ids")
OPTIONS = SessionOptions(
    lease=10,
    waiting_limit=3,
    backlog_limit=2,
    batch_messages=3,
    batch_size=5,
    max_attempts=3,
    retry_first=1,
    retry_longest=3,
    landing=25,
)
#: Fields of the hash of an idle session.
REMEMBERED = {
    "accepted",
    "settled",
    "written",
    "rewritten",
    "epoch",
    "senders",
    "buried",
    "given_up",
}
INTERVAL, GRACE = 0.25, 3.0
LANDING = OPTIONS.landing_ms
REWRITTEN = 16
START = 1_800_000_000_000


#: hold: let a leased session wait, in a list of those held. KEYS[15] the list; ARGV session, token.
HOLD = """
if redis.call('HGET', SESSION, 'token') ~= ARGV[2] then return 0 end
allow_full_memory()
redis.call('RPUSH', KEYS[SESSION_KEYS + 1], ARGV[1])
hold(ARGV[1], 'the test says so', now_ms())
return 1
"""
#: resume: let a held session go on. KEYS[15] the list; ARGV session.
RESUME = """
redis.call('LREM', KEYS[SESSION_KEYS + 1], 1, ARGV[1])
return go_on(ARGV[1], now_ms()) and 1 or 0
"""


class HoldingStore(SessionStore):
    """Sessions, and a list of those held; steered by an operator."""

    @property
    def held(self) -> str:
        return self.names.key("held")

    def hold(self, session: str, token: str) -> bool:
        return self._run_text(HOLD, session, token)

    def resume(self, session: str) -> bool:
        return self._run_text(RESUME, session)

    def pause(self, session: str) -> str:
        return Steering(self).pause(session)

    def unpause(self, session: str) -> str | None:
        return Steering(self).resume(session)

    def drop(self, session: str) -> Dropped:
        return Steering(self).drop(session)

    def rouse(self, session: str) -> Woken:
        return Steering(self).wake(session)

    def _run_text(self, text: str, *arguments: str) -> bool:
        script = scripts.Script(scripts._text("common") + text)
        keys = (*self.names.session(arguments[0]), self.held)
        return bool(script(self.client, keys, arguments))


@dataclass
class Held:
    """One session as it is in Redis."""

    fields: dict[str, str]
    lists: dict[str, list[Item]]
    ids: set[str]
    ttl: int
    ready: float | None
    lease: float | None
    sleeping: float | None
    held: int
    lagging: float | None
    paused: float | None

    @property
    def state(self) -> str:
        return self.fields.get("state", "idle")

    @property
    def items(self) -> list[Item]:
        """All items, oldest first if order is kept."""
        return [*self.lists["inflight"], *self.lists["backlog"], *self.lists["waiting"]]

    @property
    def queued(self) -> dict[int, str]:
        return {item.number: item.id for item in self.items}


def look(store: HoldingStore, session: str) -> Held:
    pipe: Any = store.client.pipeline(transaction=False)
    _ask(pipe, store, session)
    return _held(session, pipe.execute())


@dataclass
class Sight:
    """All there is, seen at once."""

    sessions: dict[str, Held]
    counters: Counter[str]
    dead: int
    announced: list[bytes]


def look_around(store: HoldingStore) -> Sight:
    """What has been announced is taken away."""
    pipe: Any = store.client.pipeline(transaction=False)
    for session in SESSIONS:
        _ask(pipe, store, session)
    pipe.xlen(store.names.dead).lpop(ANNOUNCED, 1000)
    *answers, dead, announced = pipe.execute()
    size = len(answers) // len(SESSIONS)
    sessions = {
        session: _held(session, answers[place * size : (place + 1) * size])
        for place, session in enumerate(SESSIONS)
    }
    return Sight(sessions, Counter(store.counters()), dead, announced or [])


def _ask(pipe: Any, store: HoldingStore, session: str) -> None:
    names = store.names
    base, *lists, ids = names.session(session)[:5]
    pipe.hgetall(base)
    for key in lists:
        pipe.lrange(key, 0, -1)
    pipe.smembers(ids).pttl(base)
    for key in (names.ready, names.leases, names.sleeping, names.lagging, names.paused):
        pipe.zscore(key, session)
    pipe.lrange(store.held, 0, -1)


def _held(session: str, answers: list[Any]) -> Held:
    fields, inflight, waiting, backlog, members, ttl, *scores, held = answers
    ready, lease, sleeping, lagging, paused = scores
    return Held(
        {name.decode(): value.decode() for name, value in fields.items()},
        {
            "inflight": [Item.parse(raw) for raw in inflight],
            "waiting": [Item.parse(raw) for raw in waiting],
            "backlog": [Item.parse(raw) for raw in backlog],
        },
        {unquote(member.decode()) for member in members},
        ttl,
        ready,
        lease,
        sleeping,
        held.count(session.encode()),
        lagging,
        paused,
    )
