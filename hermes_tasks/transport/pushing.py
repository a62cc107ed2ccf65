"""Pushes that are collected and sent together: one round trip for many messages."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from hermes_tasks.transport import events
from hermes_tasks.transport.answers import PushAnswer
from hermes_tasks.transport.scripts import session_script
from hermes_tasks.transport.sessions import SessionStore

logger = logging.getLogger(__name__)

FULL_EVERY = 60.0
"""Seconds between two warnings that the same session is full."""

FULL_KNOWN = 1_000
"""Sessions of which it is remembered when that was."""

_collected: ContextVar[list[Push] | None] = ContextVar("pushes", default=None)


@dataclass(frozen=True, slots=True)
class Push:
    """A message for a session.

    Attributes:
        session: its session.
        message: its text as it is stored.
        options: keyword arguments of :meth:`~hermes_tasks.transport.sessions.SessionStore.push`.
    """

    session: str
    message: str
    options: dict[str, Any]


@contextmanager
def collected_pushes() -> Iterator[list[Push]]:
    """Collect what is published to session queues in the block, in order, instead of sending it.

    Celery's signals and its ``task-sent`` events come when a message is collected.
    """
    pushes: list[Push] = []
    token = _collected.set(pushes)
    try:
        yield pushes
    finally:
        _collected.reset(token)


def collect(push: Push) -> bool:
    """Whether somebody collects; then they have it."""
    pushes = _collected.get()
    if pushes is None:
        return False
    pushes.append(push)
    return True


def push_all(store: SessionStore, pushes: Sequence[Push]) -> list[PushAnswer | RedisError]:
    """Push messages in order, in one round trip; what Redis answered to each.

    One transaction, so that what makes Redis refuse a message (its memory, its role, a script it
    does not know) makes it refuse all: none gets in whose predecessor did not. What is wrong with
    one session (its key is of another type) is the answer to its messages only. Not to be repeated
    after a lost connection unless the messages themselves say so: Redis knows again only the last
    message that a sender had accepted for a session, and those that are queued.

    Raises:
        RedisError: nothing is known of any of them.
    """
    script = session_script("push")
    answers = _run(store, pushes, "EVALSHA", script.sha)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        # After a SCRIPT FLUSH, or on a new server. The first brings the text for those behind it,
        # and in a transaction nobody can come between.
        answers = _run(store, pushes, "EVAL", script.text)
    return answers


def _run(
    store: SessionStore, pushes: Sequence[Push], first_command: str, first_script: str
) -> list[PushAnswer | RedisError]:
    script = session_script("push")
    pipeline: Any
    with store.client.pipeline(transaction=True) as pipeline:
        command, text = first_command, first_script
        for push in pushes:
            keys = store.names.session(push.session)
            arguments = store.push_arguments(push.message, **push.options)
            pipeline.execute_command(command, text, len(keys), *keys, push.session, *arguments)
            command, text = "EVALSHA", script.sha
        answers = pipeline.execute(raise_on_error=False)
    found: list[PushAnswer | RedisError] = []
    for push, answer in zip(pushes, answers, strict=True):
        if not isinstance(answer, RedisError):
            answer = PushAnswer.parse(answer)
            tell_drops(store, push.session, answer)
        found.append(answer)
    return found


def tell_drops(store: SessionStore, session: str, answer: PushAnswer) -> None:
    """Say what Redis gave up to make room for a message."""
    if answer.dropped:
        _say_full(store, session, len(answer.dropped))
        events.dropped(store, session, answer.dropped, "overflow")


_full_said: dict[tuple[str, str], float] = {}
_full_unsaid: Counter[tuple[str, str]] = Counter()


def _say_full(store: SessionStore, session: str, given_up: int) -> None:
    """Once in :data:`FULL_EVERY`: a session that is full gives one up for each that comes."""
    now, name = time.monotonic(), (store.names.prefix, session)
    _full_unsaid[name] += given_up
    if now < _full_said.get(name, -FULL_EVERY) + FULL_EVERY:
        return
    if len(_full_said) >= FULL_KNOWN:
        _full_said.clear()
        _full_unsaid.clear()
        _full_unsaid[name] = given_up
    _full_said[name] = now
    logger.warning(
        "Session %s is full: gave up its %d oldest waiting messages; this is said once a minute",
        session,
        _full_unsaid.pop(name),
    )
