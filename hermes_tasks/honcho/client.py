"""The Honcho SDK with our deadlines, connections and errors.

One client serves a whole worker process: its connections are pooled and kept alive, and it is
built at the first call, thus after a fork. The SDK's own retries are off, because they send a POST
again that may have been applied.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx
from honcho import Honcho, MessageCreateParams, Peer, Session
from honcho.api_types import SessionPeerConfig

from hermes_tasks.errors import SessionDeleted
from hermes_tasks.honcho.deadline import Call, DeadlineTransport, current
from hermes_tasks.honcho.failures import translate
from hermes_tasks.honcho.watchdogs import Watchdogs

if TYPE_CHECKING:
    from hermes_tasks.config import Settings

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

Calls = Callable[[], AbstractContextManager[Call]]
"""Opens a call that writes no messages; it is over when the block is left."""

WORKSPACES_KNOWN = 256
SESSIONS_KNOWN = PEERS_KNOWN = 10_000
"""How many are remembered as created, the longest unused ones forgotten first."""

PAGE = 100
"""Conclusions in a page of the service's answer; it gives no more at once."""


class HonchoClient:
    """What the writer needs of one Honcho service.

    Every request to the service is a :class:`~hermes_tasks.honcho.deadline.Call` of its own, which
    bounds the whole of it; where a method may need several, it opens them itself. Every method
    raises :class:`~hermes_tasks.errors.HonchoError` only, besides what opening a call raises:
    without conversation text, saying whether the call may have been written.

    Args:
        base_url: address of the service, such as ``http://127.0.0.1:8000``.
        api_key: bearer token, if it asks for one.
        watchdogs: the limits of a call's phases.
        transport: makes the connections; by default one that keeps deadlines.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        watchdogs: Watchdogs | None = None,
        transport: Callable[[], httpx.BaseTransport] | None = None,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._transport = transport or (lambda: DeadlineTransport(base_url, watchdogs))
        self._mutex = threading.Lock()
        self._pid = 0
        self._http: httpx.Client | None = None
        self._workspaces: _Recent[str, Honcho] = _Recent(WORKSPACES_KNOWN)
        self._sessions: _Recent[tuple[str, str], frozenset[str]] = _Recent(SESSIONS_KNOWN)
        self._peers: _Recent[tuple[str, str], bool] = _Recent(PEERS_KNOWN)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A client of the service that the settings name.

        Raises:
            ConfigurationError: ``HONCHO_URL`` is not set.
        """
        key = settings.honcho_api_key
        return cls(
            settings.require_honcho_url(),
            key.get_secret_value() if key else None,
            watchdogs=Watchdogs.from_settings(settings),
        )

    def ensure(
        self,
        workspace: str,
        session: str,
        peers: Mapping[str, Mapping[str, bool]],
        *,
        calls: Calls,
    ) -> None:
        """Create workspace, session and peers, or what is missing of them, unless this was done.

        Args:
            workspace: Honcho id.
            session: Honcho id.
            peers: their observation settings in this session, by Honcho id. The service keeps the
                settings of a peer who is in the session already.
            calls: opens each of the at most two calls.
        """
        honcho = self._ensured(workspace, calls)
        known = self._sessions.get((workspace, session))
        if known is not None and known.issuperset(peers):
            return
        with calls() as call:
            self._make(
                call,
                f"creating session {session} in workspace {workspace}",
                (workspace, session),
                lambda: honcho.session(
                    session,
                    peers=[(peer, SessionPeerConfig(**flags)) for peer, flags in peers.items()],
                ),
            )
        self._sessions.put((workspace, session), (known or frozenset()) | peers.keys())
        for peer in peers:
            self._peers.put((workspace, peer), True)

    def ensure_peers(self, workspace: str, peers: Iterable[str], *, calls: Calls) -> None:
        """Create peers, unless this was done, without making them members of any session.

        Joined here, they would keep the settings they joined with, and those of their first turn
        would come too late.

        Args:
            workspace: Honcho id.
            peers: Honcho ids.
            calls: opens each of the calls: one for a peer, and one for the workspace.
        """
        honcho = self._ensured(workspace, calls)
        for peer in peers:
            if self._peers.get((workspace, peer)):
                continue
            with calls() as call:
                what = f"creating peer {peer} in workspace {workspace}"
                self._make(call, what, (workspace, ""), partial(honcho.peer, peer))
            self._peers.put((workspace, peer), True)

    def add_messages(
        self, workspace: str, session: str, messages: Sequence[Mapping[str, Any]], *, call: Call
    ) -> None:
        """Store messages, all of them or none, in this order and nothing between them.

        Args:
            workspace: Honcho id.
            session: Honcho id.
            messages: 1 to 100, each with ``peer_id``, ``content``, ``created_at``, ``metadata``.
            call: the time it has, and the last check before it is sent.
        """
        target = Session(session, self._honcho(workspace))
        self._make(
            call,
            f"writing {len(messages)} messages to session {session}",
            (workspace, session),
            lambda: target.add_messages([MessageCreateParams(**message) for message in messages]),
            writes=True,
        )

    def held(
        self, workspace: str, session: str, turn_ids: Collection[str], *, calls: Calls
    ) -> Counter[tuple[str, int]]:
        """How often a session holds each part of some turns, as pairs of turn id and part.

        Args:
            workspace: Honcho id.
            session: Honcho id.
            turn_ids: the turns; each must be a valid turn id (``*`` would match everything).
            calls: opens each of the calls: the service answers in pages of 50 messages.
        """
        what = f"asking session {session} for {len(turn_ids)} turns"
        target = Session(session, self._ensured(workspace, calls))
        filters = {"metadata": {"turn_id": {"in": list(turn_ids)}}}
        name = (workspace, session)
        with calls() as call:
            page = self._make(call, what, name, lambda: target.messages(filters=filters))
        parts: dict[str, tuple[str, int]] = {}
        while page is not None:
            # By id: one that is stored while we read moves the others on, to be read once more.
            parts.update(_parts(page.items))
            if not page.has_next_page():
                break
            with calls() as call:
                page = self._make(call, what, name, page.get_next_page)
        return Counter(parts.values())

    def conclude(
        self,
        workspace: str,
        session: str,
        observer: str,
        observed: str,
        content: str,
        *,
        call: Call,
    ) -> None:
        """Store a conclusion. Its session and peers must exist: nothing is created on the way.

        Args:
            workspace: Honcho id.
            session: Honcho id.
            observer: Honcho id of the peer who has learnt it.
            observed: Honcho id of the peer it is about.
            content: 1 to 65,535 characters.
            call: the time it has, and the last check before it is sent.
        """
        of_observed = Peer(observer, self._honcho(workspace)).conclusions_of(observed)
        try:
            self._make(
                call,
                f"writing a conclusion to session {session}",
                (workspace, session),
                lambda: of_observed.create([{"content": content, "session_id": session}]),
                writes=True,
            )
        except SessionDeleted:
            # It is a peer that is missing, perhaps: the next one shall find out.
            for peer in (observer, observed):
                self._peers.drop((workspace, peer))
            raise

    def concluded(
        self,
        workspace: str,
        session: str,
        observer: str,
        observed: str,
        contents: Iterable[str],
        *,
        calls: Calls,
    ) -> Counter[str]:
        """How often a session holds each of some conclusions, up to as often as they are given.

        The service cannot be asked for a text, so all that one peer has concluded of the other in
        this session is read, the newest first, until nothing is missing.

        Args:
            workspace: Honcho id.
            session: Honcho id.
            observer: Honcho id of the peer who has learnt them.
            observed: Honcho id of the peer they are about.
            contents: the texts, compared character by character.
            calls: opens each of the calls: the service answers in pages of 100.
        """
        missing, found, seen = Counter(contents), Counter[str](), set[str]()
        what = f"asking session {session} for {missing.total()} conclusions"
        of_observed = Peer(observer, self._ensured(workspace, calls)).conclusions_of(observed)
        name = (workspace, session)
        with calls() as call:
            page = self._make(
                call, what, name, lambda: of_observed.list(size=PAGE, session=session)
            )
        while page is not None:
            for conclusion in page.items:
                # One that is stored while we read moves the others on, to be read once more.
                if missing[conclusion.content] and conclusion.id not in seen:
                    seen.add(conclusion.id)
                    missing[conclusion.content] -= 1
                    found[conclusion.content] += 1
            if not missing.total() or not page.has_next_page():
                break
            with calls() as call:
                page = self._make(call, what, name, page.get_next_page)
        return found

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        with self._mutex:
            if self._http is not None and self._pid == os.getpid():
                self._http.close()
            self._reset()

    def _make(
        self,
        call: Call,
        what: str,
        session: tuple[str, str],
        function: Callable[[], T],
        *,
        writes: bool = False,
    ) -> T:
        """Make a call of the SDK, translating its errors."""
        token = current.set(call)
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - the SDK lets through whatever it meets
            failure, cause = translate(error, call, what)
        finally:
            current.reset(token)
        # Out of the except block: there, the original would become the context of what is raised,
        # and its text, which may quote the conversation, would be printed with it.
        if call.stopped is not None:
            raise call.stopped
        if isinstance(failure, SessionDeleted):
            self._sessions.drop(session)
        if not writes:
            failure.may_have_been_written = False
        raise failure from cause

    def _ensured(self, workspace: str, calls: Calls) -> Honcho:
        """The SDK's client of a workspace that exists.

        The SDK would create it on the way, in front of the first request: a request that nobody
        had let through, and within the time of another.
        """
        honcho = self._honcho(workspace)
        if not honcho._workspace_ensured:
            with calls() as call:
                self._make(
                    call,
                    f"creating workspace {workspace}",
                    (workspace, ""),
                    honcho._ensure_workspace,
                )
        return honcho

    def _honcho(self, workspace: str) -> Honcho:
        """The SDK's client of a workspace; all of them share the connections."""
        with self._mutex:
            if self._pid != os.getpid():
                # A parent's connections must not be used, nor closed, in a forked child.
                self._reset()
                self._pid = os.getpid()
            if self._http is None:
                # `trust_env` off: proxies are the transport's, and a netrc must not add a login.
                self._http = httpx.Client(transport=self._transport(), trust_env=False)
            honcho = self._workspaces.get(workspace)
            if honcho is None:
                honcho = Honcho(
                    api_key=self._api_key,
                    base_url=self._base_url,
                    workspace_id=workspace,
                    max_retries=0,
                    http_client=self._http,
                )
                self._workspaces.put(workspace, honcho)
            return honcho

    def _reset(self) -> None:
        self._http = None
        self._workspaces.clear()
        self._sessions.clear()
        self._peers.clear()


def _parts(messages: Iterable[Any]) -> Iterable[tuple[str, tuple[str, int]]]:
    """The part of a turn that a message is, by the id that the service gave it."""
    for message in messages:
        turn_id, part = message.metadata.get("turn_id"), message.metadata.get("part")
        if isinstance(turn_id, str) and isinstance(part, int):
            yield message.id, (turn_id, part)


class _Recent(Generic[K, V]):
    """The values used last, so many of them. Safe in threads: each step is one of a dict."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            try:
                self._values.move_to_end(key)
            except KeyError:
                pass  # another thread has just forgotten it
        return value

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        while len(self._values) > self._size:
            self._values.popitem(last=False)

    def drop(self, key: K) -> None:
        self._values.pop(key, None)

    def clear(self) -> None:
        self._values.clear()
