"""What an operator does with one session: pause, resume, drop, wake, wait."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from redis.client import PubSub
from redis.exceptions import NoPermissionError

from hermes_tasks.transport import events
from hermes_tasks.transport.answers import Progress
from hermes_tasks.transport.scripts import session_script
from hermes_tasks.transport.sessions import SessionStore, one_line

logger = logging.getLogger(__name__)

#: Seconds after which whoever waits looks again: what Redis announces may be lost.
LOOK_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """What ``drop`` did.

    Attributes:
        ids: of the messages that are dead letters now, oldest first.
        inflight: messages that a worker has, and that were left to it.
    """

    ids: tuple[str, ...]
    inflight: int


@dataclass(frozen=True, slots=True)
class Woken:
    """What ``wake`` did.

    Attributes:
        state: of the session now; ``ready``: a worker takes it as soon as one is free.
        wakes_in: seconds until it wakes, if it cannot yet.
        why: it cannot: ``doubt``, an earlier call for its messages may still take effect;
            ``delayed``, its message was sent to be run later; else empty.
    """

    state: str
    wakes_in: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Waited:
    """How far a session is that somebody waited for.

    Attributes:
        target: number of the last message that was waited for.
        progress: of the session, when the wait was over.
    """

    target: int
    progress: Progress

    @property
    def settled(self) -> bool:
        """Whether every message up to the target is written or a dead letter."""
        first = self.progress.first_unsettled
        return first is None or first > self.target


@dataclass(frozen=True, slots=True)
class Steering:
    """The sessions of one deployment, as an operator steers them."""

    store: SessionStore

    def pause(self, session: str) -> str:
        """Let no worker take a session until :meth:`resume`, whether it has messages or not.

        It goes on accepting messages, within the bounds. What a worker has of it is not taken away.

        Returns:
            Its state: ``paused``; ``leased`` or ``held`` if it is paused as soon as a worker, or
            whoever holds it, lets go of it.
        """
        return str(self._run("pause", session).decode())

    def resume(self, session: str) -> str | None:
        """Let a paused session go on from where it was; if it slept, until then.

        Returns:
            Its state now; ``None``: it was not paused.
        """
        state, was_paused = self._run("unpause", session)
        return state.decode() if was_paused else None

    def drop(self, session: str, detail: str = "") -> Dropped:
        """Give up all that is queued in a session, as dead letters of reason ``dropped``.

        What a worker has at this moment is left to it.

        Args:
            session: the one.
            detail: a line for the letters about why, without content.
        """
        detail = one_line(detail)
        inflight, *ids = self._run("drop", session, detail)
        dropped = Dropped(tuple(unquote(id.decode()) for id in ids), inflight)
        if dropped.ids:
            logger.warning("Session %s: %d messages were dropped by hand", session, len(ids))
            events.dropped(self.store, session, dropped.ids, "dropped", detail)
        return dropped

    def wake(self, session: str) -> Woken:
        """Let a sleeping session go on now, or as soon as it may."""
        state, wait, why = self._run("rouse", session, self.store.options.landing_ms)
        return Woken(state.decode(), wait / 1000 if wait >= 0 else None, why.decode())

    def wait(self, session: str, timeout: float) -> Waited:
        """Wait until all that a session has accepted by now is written or given up.

        Args:
            session: the one.
            timeout: seconds after which to return nevertheless; the answer says how far it is.
        """
        until = time.monotonic() + timeout
        # Not the client's own: Kombu's would put its prefix in front of the channel once more.
        with closing(PubSub(self.store.client.connection_pool)) as ear:
            ear.subscribe(self.store.names.channel(session))
            waited = Waited(0, self.store.watch(session))
            waited = Waited(waited.progress.accepted, waited.progress)
            while not waited.settled and (left := until - time.monotonic()) > 0:
                _listen(ear, min(LOOK_AGAIN, left))
                waited = Waited(waited.target, self.store.watch(session, waited.target))
        return waited

    def _run(self, script: str, session: str, *arguments: Any) -> Any:
        keys = self.store.names.session(session)
        return session_script(script)(self.store.client, keys, (session, *arguments))


def _listen(ear: PubSub, seconds: float) -> None:
    """Return when something was heard, or after so many seconds."""
    try:
        ear.get_message(timeout=seconds)
    except NoPermissionError:  # a user who may not subscribe looks again all the same
        time.sleep(seconds)
