"""What is to be remembered, as plain JSON that is complete in itself: turns and conclusions.

A turn is what one exchange leaves: its messages. A conclusion is one fact that a peer has learnt of
a peer; it travels like a turn, in the queue of its session. Both are made on the gateway by
``create``, which does all the cleaning, splitting and checking, and read on the worker by
:func:`from_json`, which needs neither Hermes nor settings::

    {"v": 1, "turn_id": "5f…", "backend": "default", "workspace": "w", "session": "telegram-42-…",
     "messages": [{"peer": "igor", "content": "hi", "metadata": {…},
                   "created_at": "2026-01-31T12:00:00.000000+00:00"}],
     "peers": {"igor": {"observe_me": true, "observe_others": false}}, "ask": true}

    {"v": 1, "kind": "conclusion", "turn_id": "7a…", "backend": "default", "workspace": "w",
     "session": "telegram-42-…", "observer": "hermes", "observed": "igor",
     "content": "Igor likes tea"}

``metadata``, ``peers`` and ``ask`` are left out where there is nothing to say.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar, Final, Literal, TypeAlias

from hermes_tasks.errors import InvalidTurn
from hermes_tasks.identity import honcho_id, is_honcho_id, is_turn_id
from hermes_tasks.metadata import plain_metadata
from hermes_tasks.text import CONTENT_LIMIT, clean, is_blank, split
from hermes_tasks.timestamps import LAST_MOMENT, iso, moment_of

FORMAT: Final = 1
"""Version of the JSON form. A worker refuses a newer one with a clear error."""

DEFAULT_BACKEND: Final = "default"

_OBSERVATION: Final = frozenset({"observe_me", "observe_others"})
encode: Final = json.JSONEncoder(separators=(",", ":")).encode
"""The JSON text of a value, as turns are kept: without a space between its parts."""


def session_key(backend: str, workspace: str, session: str) -> str:
    """Names a session among all backends and workspaces: ``backend:workspace:session``.

    Its queue and its keys in Redis are named after it. Arguments: valid ids, as Honcho has them.
    """
    return f"{backend}:{workspace}:{session}"


# Not frozen: it would take six times as long to make, on the path of the user.
@dataclass(slots=True)
class Message:
    """One message as it will be stored: an entry of a turn, or a part of a long one.

    Attributes:
        peer: who said it, a valid Honcho id.
        content: cleaned text of 1 to 25,000 characters.
        created_at: ISO 8601 with offset, microseconds.
        metadata: the caller's, without our own keys.
    """

    peer: str
    content: str = field(repr=False)
    created_at: str
    metadata: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(slots=True)
class Turn:
    """One exchange to be remembered, in the session it belongs to."""

    kind: ClassVar[Literal["turn"]] = "turn"

    turn_id: str
    workspace: str
    session: str
    messages: tuple[Message, ...] = field(repr=False)
    backend: str = DEFAULT_BACKEND
    peers: dict[str, dict[str, bool]] = field(default_factory=dict, repr=False)
    ask: bool = False

    @classmethod
    def create(
        cls,
        workspace: str,
        session: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        turn_id: str | None = None,
        backend: str = DEFAULT_BACKEND,
        peers: Mapping[str, Mapping[str, bool]] | None = None,
        ask: bool = False,
        scrub: Callable[[str], str] | None = None,
    ) -> Turn:
        """Make a turn from what a gateway has: any keys, any text.

        Keys become valid ids, contents are cleaned, blank messages are left out, long ones are
        split, and one without ``created_at`` gets the current time, later than the one before.

        Args:
            workspace: Honcho workspace.
            session: key of the session, such as ``"telegram:42"``.
            messages: mappings with ``peer`` and ``content``; optional ``created_at`` (ISO 8601,
                :class:`~datetime.datetime` or seconds since the epoch; naive is UTC) and
                ``metadata`` (``turn_id``, ``part`` and ``parts`` in it are overwritten by ours).
            turn_id: ``[A-Za-z0-9_:-]{1,100}``, the same whenever the same turn is sent again; a
                random one by default.
            backend: name of the Honcho deployment, ``[A-Za-z0-9_-]{1,100}``.
            peers: observation settings in this session by peer: ``observe_me``, ``observe_others``.
            ask: the turn may have been sent before: Honcho is asked before it is written.
            scrub: what each content goes through first; by default nothing.

        Raises:
            InvalidTurn: one line that names the field, never its content.
        """
        turn_id = _turn_id(turn_id)
        _check_backend(backend)
        if not isinstance(messages, list) and (
            isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable)
        ):
            raise InvalidTurn(f"messages must be a list, not {type(messages).__name__}")
        parts = _parts(messages, scrub)
        if not parts:
            raise InvalidTurn("messages has nothing to remember: none, or all of them blank")
        return cls(
            turn_id=turn_id,
            workspace=honcho_id(workspace, "workspace"),
            session=honcho_id(session, "session"),
            messages=parts,
            backend=backend,
            peers=_peers(peers) if peers else {},
            ask=bool(ask),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        """Read a turn that :meth:`to_json` wrote, perhaps in another version of this package.

        Raises:
            InvalidTurn: it is not a turn, or is of a newer format. The message has no content.
        """
        if isinstance(data, Mapping) and "kind" in data:
            raise InvalidTurn("not a turn: it is of another kind")
        _check_format(data)
        try:
            turn = cls(
                turn_id=data["turn_id"],
                workspace=data["workspace"],
                session=data["session"],
                messages=tuple(
                    Message(
                        entry["peer"], entry["content"], entry["created_at"], entry.get("metadata")
                    )
                    for entry in data["messages"]
                ),
                backend=data["backend"],
                peers=data.get("peers") or {},
                ask=bool(data.get("ask")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            # Without its cause: the text of a KeyError could be a key of the caller's metadata.
            raise InvalidTurn(f"not a turn: {type(error).__name__} while reading it") from None
        turn._check()
        return turn

    def to_json(self) -> dict[str, Any]:
        """The turn as plain data, ready for any JSON encoder."""
        data: dict[str, Any] = {
            "v": FORMAT,
            "turn_id": self.turn_id,
            "backend": self.backend,
            "workspace": self.workspace,
            "session": self.session,
            "messages": [
                {"peer": m.peer, "content": m.content, "created_at": m.created_at}
                if not m.metadata
                else {
                    "peer": m.peer,
                    "content": m.content,
                    "created_at": m.created_at,
                    "metadata": m.metadata,
                }
                for m in self.messages
            ],
        }
        if self.peers:
            data["peers"] = self.peers
        if self.ask:
            data["ask"] = True
        return data

    def to_text(self) -> str:
        """:meth:`to_json` as JSON text, in a third of the time: ids and times need no quoting."""
        messages = ",".join(
            [
                f'{{"peer":"{m.peer}","content":{quote(m.content)},"created_at":"{m.created_at}"'
                + (f',"metadata":{encode(m.metadata)}}}' if m.metadata else "}")
                for m in self.messages
            ]
        )
        peers = f',"peers":{encode(self.peers)}' if self.peers else ""
        ask = ',"ask":true' if self.ask else ""
        return (
            f'{{"v":{FORMAT},"turn_id":"{self.turn_id}","backend":"{self.backend}",'
            f'"workspace":"{self.workspace}","session":"{self.session}",'
            f'"messages":[{messages}]{peers}{ask}}}'
        )

    @property
    def session_key(self) -> str:
        """The name of its session among all backends and workspaces, see :func:`session_key`."""
        return session_key(self.backend, self.workspace, self.session)

    @property
    def size(self) -> int:
        """Number of Honcho messages, each part of a split one counted."""
        return len(self.messages)

    @property
    def characters(self) -> int:
        """Length of all contents together, in characters."""
        return sum(len(message.content) for message in self.messages)

    def describe(self) -> str:
        """What logs, events and Flower may show of a turn: no text, only names and numbers."""
        return f"session={self.session_key}, messages={self.size}, characters={self.characters}"

    def _check(self) -> None:
        """Check what becomes part of a URL, a Redis key or a filter, whoever wrote the JSON."""
        _check_names(self)
        if not self.messages:
            raise InvalidTurn("not a turn: it has no messages")
        if not isinstance(self.peers, dict) or not all(map(is_honcho_id, self.peers)):
            raise InvalidTurn("not a turn: peers is not valid")
        for message in self.messages:
            if not (
                is_honcho_id(message.peer)
                and isinstance(message.content, str)
                and isinstance(message.created_at, str)
                and isinstance(message.metadata, dict | None)
            ):
                raise InvalidTurn("not a turn: a message of it is not valid")


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A fact that one peer has learnt of another, in the session it was learnt in.

    Honcho keeps neither our id nor a time of ours with it. It is known by what it says: two
    conclusions of the same observer, observed, session and content cannot be told apart, and where
    it is not known whether one of them was written, the other may stand for both.
    """

    kind: ClassVar[Literal["conclusion"]] = "conclusion"

    turn_id: str
    workspace: str
    session: str
    observer: str
    observed: str
    content: str = field(repr=False)
    backend: str = DEFAULT_BACKEND
    ask: bool = False

    @classmethod
    def create(
        cls,
        workspace: str,
        session: str,
        observer: str,
        observed: str,
        content: str,
        *,
        turn_id: str | None = None,
        backend: str = DEFAULT_BACKEND,
        ask: bool = False,
    ) -> Conclusion:
        """Make a conclusion from what a gateway has: any keys, any text. It is never split.

        Args:
            workspace: Honcho workspace.
            session: key of the session, such as ``"telegram:42"``.
            observer: key of the peer who has learnt it.
            observed: key of the peer it is about; may be the same.
            content: what was learnt; 1 to 25,000 characters when cleaned.
            turn_id: ``[A-Za-z0-9_:-]{1,100}``, the same whenever the same conclusion is sent again;
                a random one by default.
            backend: name of the Honcho deployment, ``[A-Za-z0-9_-]{1,100}``.
            ask: it may have been sent before: Honcho is asked before it is written.

        Raises:
            InvalidTurn: one line that names the field, never its content.
        """
        turn_id = _turn_id(turn_id)
        _check_backend(backend)
        if not isinstance(content, str):
            raise InvalidTurn(f"content must be a string, not {type(content).__name__}")
        content = clean(content)
        if is_blank(content):
            raise InvalidTurn("content has nothing to remember: it is blank")
        if len(content) > CONTENT_LIMIT:
            raise InvalidTurn(
                f"content has {len(content)} characters, a conclusion at most {CONTENT_LIMIT}"
            )
        return cls(
            turn_id=turn_id,
            workspace=honcho_id(workspace, "workspace"),
            session=honcho_id(session, "session"),
            observer=honcho_id(observer, "observer"),
            observed=honcho_id(observed, "observed"),
            content=content,
            backend=backend,
            ask=bool(ask),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Conclusion:
        """Read a conclusion that :meth:`to_json` wrote, perhaps in another version.

        Raises:
            InvalidTurn: it is not one, or is of a newer format. The message has no content.
        """
        _check_format(data)
        try:
            conclusion = cls(
                turn_id=data["turn_id"],
                workspace=data["workspace"],
                session=data["session"],
                observer=data["observer"],
                observed=data["observed"],
                content=data["content"],
                backend=data["backend"],
                ask=bool(data.get("ask")),
            )
        except KeyError as error:
            raise InvalidTurn(f"not a conclusion: it has no {error.args[0]}") from None
        _check_names(conclusion)
        if not (is_honcho_id(conclusion.observer) and is_honcho_id(conclusion.observed)):
            raise InvalidTurn("not a conclusion: a peer of it is not a valid id")
        if not isinstance(conclusion.content, str) or not conclusion.content:
            raise InvalidTurn("not a conclusion: its content is not valid")
        return conclusion

    def to_json(self) -> dict[str, Any]:
        """The conclusion as plain data, ready for any JSON encoder."""
        data: dict[str, Any] = {
            "v": FORMAT,
            "kind": self.kind,
            "turn_id": self.turn_id,
            "backend": self.backend,
            "workspace": self.workspace,
            "session": self.session,
            "observer": self.observer,
            "observed": self.observed,
            "content": self.content,
        }
        if self.ask:
            data["ask"] = True
        return data

    def to_text(self) -> str:
        """:meth:`to_json` as JSON text."""
        return encode(self.to_json())

    @property
    def session_key(self) -> str:
        """The name of its session among all backends and workspaces, see :func:`session_key`."""
        return session_key(self.backend, self.workspace, self.session)

    @property
    def size(self) -> int:
        """It counts as one message."""
        return 1

    @property
    def characters(self) -> int:
        """Length of the content, in characters."""
        return len(self.content)

    def describe(self) -> str:
        """What logs, events and Flower may show of it: no text, only names and numbers."""
        return f"session={self.session_key}, conclusion, characters={self.characters}"


Memory: TypeAlias = Turn | Conclusion
"""Whatever travels in a session's queue."""


def from_json(data: Mapping[str, Any]) -> Memory:
    """Read a turn or a conclusion.

    Raises:
        InvalidTurn: it is neither, or is of a newer format. The message has no content.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind is None:
        return Turn.from_json(data)
    if kind == Conclusion.kind:
        return Conclusion.from_json(data)
    raise InvalidTurn("of a kind that this worker does not know: update the worker")


def _turn_id(given: object) -> str:
    """The caller's id of a turn, or a random one."""
    if given is None:
        return uuid.uuid4().hex
    if not isinstance(given, str) or not is_turn_id(given):
        raise InvalidTurn("turn_id must be 1 to 100 characters of A-Z a-z 0-9 _ : -")
    return str.__str__(given)  # one of an enumeration of strings would print as its name


def _check_backend(backend: object) -> None:
    if not is_honcho_id(backend):
        raise InvalidTurn("backend must be 1 to 100 characters of A-Z a-z 0-9 _ -")


def _check_format(data: object) -> None:
    """Check that a JSON form is one that this version reads."""
    version = data.get("v") if isinstance(data, Mapping) else None
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise InvalidTurn(
            f"turn has format {version}, this worker reads {FORMAT}: update the worker"
            if newer
            else "not a turn: it has no format version"
        )


def _check_names(turn: Memory) -> None:
    """Check what becomes part of a URL, a Redis key or a filter, whoever wrote the JSON."""
    if not is_turn_id(turn.turn_id):
        raise InvalidTurn(f"not a {turn.kind}: turn_id is not valid")
    for name, value in (
        ("backend", turn.backend),
        ("workspace", turn.workspace),
        ("session", turn.session),
    ):
        if not is_honcho_id(value):
            raise InvalidTurn(f"not a {turn.kind}: {name} is not a valid id")


def _parts(
    messages: Iterable[Mapping[str, Any]], scrub: Callable[[str], str] | None
) -> tuple[Message, ...]:
    """The messages as they will be stored: cleaned, blank ones left out, long ones split."""
    parts: list[Message] = []
    last = -1  # nothing that comes without a time was said before 1970
    for index, entry in enumerate(messages):
        try:
            peer, content, at, metadata = _said(entry)
        except InvalidTurn as error:
            raise InvalidTurn(f"messages[{index}]{error}") from None
        content = clean(content if scrub is None else scrub(content))
        if is_blank(content):
            continue
        if at is None:
            # Honcho lists messages of one moment in no particular order.
            at = max(time.time_ns() // 1_000, last + 1)
        for part in split(content):
            last = min(at, LAST_MOMENT)
            parts.append(Message(peer, part, iso(last), metadata))
            at = last + 1
    return tuple(parts)


def _said(entry: Mapping[str, Any]) -> tuple[str, str, int | None, dict[str, Any] | None]:
    """Peer, content, moment and metadata of a message; an error begins with the field."""
    # A look at the type of what is a dict, as nearly all are, takes a tenth of the other.
    if not isinstance(entry, dict) and not isinstance(entry, Mapping):
        raise InvalidTurn(f" must be a mapping, not {type(entry).__name__}")
    peer = honcho_id(entry.get("peer", ""), ".peer")
    content = entry.get("content")
    if not isinstance(content, str):
        raise InvalidTurn(f".content must be a string, not {type(content).__name__}")
    given, metadata = entry.get("created_at"), entry.get("metadata")
    if given is not None:
        given = moment_of(given, ".created_at")
    if metadata is not None:
        metadata = plain_metadata(metadata, ".metadata")
    return peer, content, given, metadata


def _peers(peers: Mapping[str, Mapping[str, bool]]) -> dict[str, dict[str, bool]]:
    """Observation settings by peer id."""
    settings: dict[str, dict[str, bool]] = {}
    if not isinstance(peers, Mapping):
        raise InvalidTurn(f"peers must be a mapping, not {type(peers).__name__}")
    for raw, flags in peers.items():
        if not isinstance(flags, Mapping) or not _OBSERVATION.issuperset(flags):
            raise InvalidTurn("peers takes observe_me and observe_others for each peer")
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise InvalidTurn("peers takes true or false for observe_me and observe_others")
        settings[honcho_id(raw, "peer")] = dict(flags)
    return settings
