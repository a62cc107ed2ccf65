"""TurnSync: what a gateway calls to have its conversations remembered."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hermes_tasks import tracing
from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import InvalidTurn
from hermes_tasks.gate import Policy
from hermes_tasks.gateway.callers import Callers
from hermes_tasks.gateway.flush import Flush
from hermes_tasks.gateway.link import Link
from hermes_tasks.gateway.outbox import using_sqlite
from hermes_tasks.gateway.publisher import Publisher
from hermes_tasks.gateway.sender import Sender
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.identity import honcho_id
from hermes_tasks.scrub import scrub
from hermes_tasks.sealing import keyring_of
from hermes_tasks.tracing import Traced
from hermes_tasks.transport import Names
from hermes_tasks.turns import Conclusion, Memory, Turn, encode, session_key

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
"""How long Redis may take to tell ``flush`` how far a session is."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A turn or a conclusion was accepted: it will be written, once, after those accepted before.

    Attributes:
        turn_id: its id in Celery and, of a turn, in Honcho's metadata.
        workspace: the Honcho workspace it goes to.
        session: the Honcho session it goes to.
    """

    turn_id: str
    workspace: str
    session: str


@dataclass(frozen=True, slots=True)
class CloseReport:
    """How a gateway ended.

    Attributes:
        published: turns that Redis accepted while the gateway was closing.
        left: turns in the outbox that Redis has not accepted; a later gateway sends them.
        lost: those of them that were in memory only, because the outbox could not be written.
    """

    published: int
    left: int
    lost: int


class TurnSync:
    """The sending side: accepts turns at once and carries them to Redis in the background.

    Make one for each process and keep it. It loads Celery when it is made, so that no turn waits
    for that. Safe to use from several threads and after a fork. What the process leaves unsent, the
    next one on the same outbox directory sends.

    Args:
        broker_url: Redis that carries the turns; default ``HERMES_TASKS_BROKER_URL``.
        workspace: Honcho workspace of turns that name none; default ``HONCHO_WORKSPACE_ID``.
        prefix: name of the deployment in Redis; default ``HERMES_TASKS_PREFIX``.
        outbox_dir: directory of the outbox files; default ``HERMES_TASKS_OUTBOX_DIR``.
        settings: all settings at once, instead of the environment; the arguments above go first.

    Raises:
        ConfigurationError: a setting cannot be used.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        workspace: str | None = None,
        prefix: str | None = None,
        outbox_dir: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        given: dict[str, Any] = settings.model_dump() if settings is not None else {}
        given.update(
            (name, value)
            for name, value in (
                ("broker_url", broker_url),
                ("honcho_workspace_id", workspace),
                ("prefix", prefix),
                ("outbox_dir", None if outbox_dir is None else Path(outbox_dir)),
            )
            if value is not None
        )
        self.settings = Settings.load(**given)
        self._keyring = keyring_of(self.settings)
        # Not the process's current app: the host may have one.
        self._app = make_app(self.settings, set_as_current=False, backend="disabled")
        self._spool = Spool(
            self.settings.outbox_dir,
            _destination(self.settings),
            limit=self.settings.outbox_rows,
            full_sync=self.settings.outbox_sync == "full",
        )
        self._report: CloseReport | None = None
        self._start()
        _live.add(self)
        if self._spool.pending or self._spool.keep_until is not None:
            self._publisher.wake()

    def _start(self) -> None:
        url = self.settings.safe_broker_url
        sender = Sender(self._app, Link(self._app, url))
        self._callers = Callers()
        self._publisher = Publisher(self._spool, sender, self._callers)
        link = Link(self._app, url, connect=PROGRESS_SECONDS, answer=PROGRESS_SECONDS)
        names = Names(
            self.settings.prefix, self.settings.broker_options.get("global_keyprefix", "")
        )
        policy = Policy.from_settings(self.settings)
        self._flush = Flush(self._spool, self._publisher, link, names, policy)
        self._closing = threading.RLock()

    def sync_turn(
        self,
        *,
        session: str,
        messages: Iterable[Mapping[str, Any]],
        workspace: str | None = None,
        turn_id: str | None = None,
        peers: Mapping[str, Mapping[str, bool]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Accept a turn: check it, put it into the outbox, return. Never waits for the network.

        Recalled memory is taken out of it (:mod:`hermes_tasks.scrub`).

        Args:
            session: key of the session, such as ``"telegram:42"``; made a valid id.
            messages: mappings with ``peer`` and ``content``, optionally ``created_at`` and
                ``metadata``; see :meth:`hermes_tasks.turns.Turn.create`.
            workspace: Honcho workspace; default: this gateway's.
            turn_id: the same whenever the same turn is given again; random by default.
            peers: observation settings of peers in this session.
            metadata: kept with every message, under what the message itself has.

        Raises:
            InvalidTurn: the turn cannot be remembered as it is; the text is not in the message.
            Closed: :meth:`close` has begun.
        """
        with self._callers, tracing.accepting("sync_turn") as traced:
            turn = Turn.create(
                self.settings.honcho_workspace_id if workspace is None else workspace,
                session,
                messages if metadata is None else _with_metadata(messages, metadata),
                turn_id=turn_id,
                backend=self.settings.backend,
                peers=peers,
                scrub=scrub,
            )
            return self._accept(turn, traced)

    def conclude(
        self,
        *,
        session: str,
        observer: str,
        observed: str,
        content: str,
        workspace: str | None = None,
        turn_id: str | None = None,
    ) -> Receipt:
        """Accept a conclusion: a fact that one peer has learnt of another. As fast as a turn.

        It is written after the turns of its session accepted before it. Honcho keeps no id with it:
        two of the same peers, session and content cannot be told apart there.

        Args:
            session: key of the session, such as ``"telegram:42"``; made a valid id.
            observer: key of the peer who has learnt it.
            observed: key of the peer it is about; may be the same.
            content: what was learnt, up to 25,000 characters.
            workspace: Honcho workspace; default: this gateway's.
            turn_id: the same whenever the same conclusion is given again; random by default.

        Raises:
            InvalidTurn: it cannot be remembered as it is; the text is not in the message.
            Closed: :meth:`close` has begun.
        """
        with self._callers, tracing.accepting("conclude") as traced:
            conclusion = Conclusion.create(
                self.settings.honcho_workspace_id if workspace is None else workspace,
                session,
                observer,
                observed,
                scrub(content) if isinstance(content, str) else content,
                turn_id=turn_id,
                backend=self.settings.backend,
            )
            return self._accept(conclusion, traced)

    def _accept(self, turn: Memory, traced: Traced) -> Receipt:
        body = turn.to_text()
        if len(body) > self.settings.turn_bytes:
            raise InvalidTurn(
                f"the turn has {len(body)} bytes, at most {self.settings.turn_bytes} are sent: see "
                "HERMES_TASKS_TURN_BYTES"
            )
        carrier = traced.carrier()
        if carrier or self._keyring:
            data = (self._keyring.seal(turn) if self._keyring else turn).to_json()
            if carrier:
                data[tracing.CARRIER] = carrier
                traced.set("messaging.message.id", turn.turn_id)
                traced.set("messaging.message.conversation_id", turn.session_key)
            body = encode(data)
        self._spool.append(turn.session_key, turn.turn_id, body)
        self._publisher.wake()
        return Receipt(turn.turn_id, turn.workspace, turn.session)

    def warm_up(self) -> None:
        """Connect to Redis now, in the background, rather than when the first turn comes.

        Returns at once. The first turn then need not share the interpreter with that.
        """
        self._publisher.ask()

    def flush(
        self, *, session: str, workspace: str | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until every turn of the session accepted so far is written.

        A turn that was given up for good, as a dead letter, is not waited for. While Redis goes
        away, the wait may be a second longer than asked.

        Args:
            session: key of the session, as given to :meth:`sync_turn`.
            workspace: Honcho workspace; default: this gateway's.
            timeout: seconds; default ``HERMES_TASKS_FLUSH_TIMEOUT``.

        Returns:
            ``True``, always: they are written.

        Raises:
            StillSyncing: not within ``timeout``; it says how many wait and why. Ask again.
            Closed: the gateway is closed.
        """
        if workspace is None:
            workspace = self.settings.honcho_workspace_id
        key = session_key(
            self.settings.backend, honcho_id(workspace, "workspace"), honcho_id(session, "session")
        )
        self._flush.wait(key, self.settings.flush_timeout if timeout is None else timeout)
        return True

    def close(self, timeout: float = 5.0) -> CloseReport:
        """Send what can be sent in ``timeout`` seconds and stop. Further calls change nothing.

        What cannot be sent stays in the outbox, for the next gateway on it. So does, out of sight,
        what was sent within the last seconds: Redis might forget it yet, and then the next gateway
        sends it again. If a connection is just being made to a host that does not answer, a thread
        that does nothing more outlives this, for 2 s at most.
        """
        with self._closing:
            if self._report is None:
                before = self._publisher.published
                self._spool.stop_appends()
                if self._spool.pending:
                    self._publisher.wake()
                self._publisher.close(timeout)
            if self._report is None:  # a signal handler may have closed it while that waited
                self._flush.close()
                self._report = CloseReport(
                    published=self._publisher.published - before,
                    left=self._spool.pending,
                    lost=self._spool.in_memory,
                )
                if self._report.lost:
                    logger.warning(
                        "%d turns are lost: Redis did not take them in time, and the outbox could "
                        "not be written",
                        self._report.lost,
                    )
                self._spool.close()
                _live.discard(self)
            return self._report

    @property
    def pending(self) -> int:
        """Turns accepted here that Redis has not accepted yet."""
        return self._spool.pending

    @property
    def dropped(self) -> int:
        """Turns given up because the outbox, or their session in Redis, was full."""
        return self._spool.dropped + self._publisher.overflowed

    @property
    def refused(self) -> int:
        """Turns kept aside in the outbox because they can never be sent."""
        return self._spool.refused

    @property
    def is_running(self) -> bool:
        """Whether the publishing thread is there. It starts with the first turn."""
        return self._publisher.is_running

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _before_fork(self) -> None:
        self._spool.before_fork()

    def _after_fork_in_parent(self) -> None:
        self._spool.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        """Become a gateway of its own: no thread, no connection and no row of the parent."""
        self._spool.after_fork_in_child()
        self._start()


def _destination(settings: Settings) -> str:
    """The Redis and the deployment that turns are meant for, whatever password that takes."""
    address = re.sub(r"//[^/@;]*@", "//", settings.safe_broker_url)
    options = settings.broker_options
    keyprefix = f"{options.get('global_keyprefix', '')}{settings.prefix}"
    return " ".join(filter(None, (address, options.get("master_name"), keyprefix)))


def _with_metadata(messages: Any, metadata: Any) -> Any:
    """The messages, each with the metadata under its own. What is no message is left as it is."""
    if not isinstance(metadata, Mapping):
        raise InvalidTurn(f"metadata must be a mapping, not {type(metadata).__name__}")
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        return messages
    return [
        {**message, "metadata": {**metadata, **own}}
        if isinstance(message, Mapping)
        and isinstance(own := message.get("metadata") or {}, Mapping)
        else message
        for message in messages
    ]


# -- forks -----------------------------------------------------------------------------------

_live: set[TurnSync] = set()
_forking: list[TurnSync] = []
_fork_lock = threading.RLock()


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking[:] = list(_live)
    for sync in _forking:
        sync._before_fork()
    using_sqlite.acquire()


def _after_fork_in_parent() -> None:
    using_sqlite.release()
    for sync in _forking:
        sync._after_fork_in_parent()
    _forking.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    using_sqlite.release()
    for sync in _forking:
        sync._after_fork_in_child()
    _forking.clear()
    _fork_lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
