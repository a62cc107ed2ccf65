"""The session scripts against invariants and a model, under whatever hypothesis thinks of.

Every script runs as it is, on a real server, but for its clock. ``ModelMachine`` adds ``Model``, a
second implementation of all scripts in Python, to the machine with an operator, and wants every
answer to be the model's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from hermes_tasks.transport.answers import Doubt, Help
from tests.integration.session_model.machine import QUICK, SteeredMachine, run
from tests.integration.session_model.model import Model, text_of
from tests.integration.session_model.store import SESSIONS, Sight, look


class ModelMachine(SteeredMachine):
    """The same, with and without the operator, and every answer of Redis is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @initialize(operated=st.booleans())
    def choose_whether_somebody_steers(self, operated: bool) -> None:
        self.operated = operated

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        extra: tuple[float | None, ...] = ()
        if name in ("wake", "rouse"):
            extra = (look(self.store, args[0]).sleeping,)
        elif name == "unpause":
            due = look(self.store, args[0]).fields.get("due")
            extra = (None if due is None else int(due),)
        answer = super().call(name, *args, **kwargs)
        if name == "rescue":
            self._check_rescue(answer)
        elif name == "watch":
            self.model.watch(*args)
        elif name == "exchange":
            popped = (raw and _entry(raw) for raw in (answer.entry, answer.reserved))
            found = (answer.completed, answer.claimed, *popped)
            assert found == self.model.exchange(*args, **kwargs)
        else:
            expected = getattr(self.model, name)(*args, *extra, **kwargs)
            assert answer == expected, (name, answer, expected)
        return answer

    def _check_rescue(self, found: Help) -> None:
        requeued = self.model.requeue()
        if requeued is None:
            assert found == Help()
            return
        assert found.requeued == requeued
        now, sessions = self.now, self.model.sessions.items()
        assert set(found.lapsed) == {n for n, s in sessions if s.token and s.expiry <= now}
        due = {n for n in SESSIONS if 0 < (look(self.store, n).sleeping or 0) <= now}
        assert set(found.due) == due

    def moved_run_queue(self, change: Callable[[list[Any]], Any]) -> None:
        change(self.model.run)

    def moved_clock(self) -> None:
        self.model.now = self.now

    def noted_epoch(self) -> None:
        self.model.epoch += 1
        self.model.epoch_at = self.now

    def check(self, seen: Sight) -> None:
        super().check(seen)
        self.redis_is_as_the_model(seen)

    def redis_is_as_the_model(self, seen: Sight) -> None:
        pipe: Any = self.client.pipeline(transaction=False)
        pipe.lrange(self.store.names.run, 0, -1)
        pipe.zrange(self.store.names.lagging, 0, -1, withscores=True)
        entries, lagging = pipe.execute()
        assert [_entry(raw) for raw in entries] == self.model.run
        counted = seen.counters.copy()
        counted.pop("backlog", None)  # which the invariants know better
        assert +counted == +self.model.counts
        assert {name.decode(): since for name, since in lagging} == self.model.lagging
        for name in SESSIONS:
            session, held = self.model.sessions[name], seen.sessions[name]
            progress = self.store.progress(name)
            queued = session.queued
            assert (progress.state, progress.accepted) == (session.state, session.accepted)
            assert progress.first_unsettled == (queued[0].number if queued else None)
            assert progress.attempts == session.attempts
            assert (progress.inflight, progress.waiting, progress.backlog) == (
                len(session.inflight),
                len(session.waiting),
                len(session.backlog),
            )
            assert held.items == [message.item for message in queued]
            watched = held.fields.get("watched")
            assert watched == (None if session.watched is None else str(session.watched))
            assert held.fields.get("trace", "") == text_of(session.trace)
            assert Doubt.parse(held.fields.get("intent", "").encode()) == session.intent
            if session.state == "leased":
                assert held.lease == session.expiry
            if session.state == "sleeping":
                low, high = (
                    session.wake_at
                    if isinstance(session.wake_at, tuple)
                    else (session.wake_at, session.wake_at)
                )
                assert progress.wake_at_ms is not None
                assert low <= progress.wake_at_ms <= high


def _entry(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode()


def test_every_invariant_holds_and_every_answer_is_the_models(redis_client: redis.Redis) -> None:
    run(ModelMachine, redis_client, QUICK, {})
