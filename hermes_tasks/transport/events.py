"""Tells hooks what became of messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import redis

from hermes_tasks import hooks
from hermes_tasks.transport.sessions import SessionStore


def written(store: SessionStore, session: str, ids: Iterable[str]) -> None:
    """These messages of a session are written, by this process or by one before it."""
    if hooks.turn_written.is_heard:
        names = _names(session)
        for id in ids:
            hooks.emit(hooks.turn_written, counter(store), turn_id=id, **names)


def dropped(
    store: SessionStore, session: str, ids: Iterable[str], reason: str, detail: str = ""
) -> None:
    """These messages of a session are dead letters: ``reason`` is one word, ``detail`` a line."""
    if hooks.turn_dropped.is_heard:
        event = {**_names(session), "reason": reason, "detail": detail}
        for id in ids:
            hooks.emit(hooks.turn_dropped, counter(store), turn_id=id, **event)


def counter(store: SessionStore) -> hooks.Count:
    """Adds to the counters of a deployment, on a connection of its own."""
    return partial(_count, store)


def _count(store: SessionStore, by: Mapping[str, int]) -> None:
    # The store's own client may be bound to the connection that a worker is using just now.
    client = redis.Redis(connection_pool=store.client.connection_pool)
    with client.pipeline(transaction=False) as pipe:
        for name, amount in by.items():
            pipe.hincrby(store.names.stats, name, amount)
        pipe.execute()


def _names(session: str) -> dict[str, str]:
    """What a session's name is made of. One of another form is the session of no workspace."""
    backend, _, rest = session.partition(":")
    workspace, _, id = rest.partition(":")
    if not id or ":" in id:
        backend, workspace, id = "", "", session
    return {"session": id, "workspace": workspace, "backend": backend}
