"""What the stand-in stores, and the rules by which the service takes or refuses it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_ID = re.compile(r"[a-zA-Z0-9_-]{1,512}")
_SPECIAL_TOKEN = re.compile(r"<\|endof(?:text|prompt)\|>")
_SURROGATE = re.compile("[\ud800-\udfff]")
CONTENT_LIMIT = 25_000
CONCLUSION_LIMIT = 65_535
BATCH_LIMIT = 100
METADATA_KEYS = 100
METADATA_DEPTH = 5


class Rejected(Exception):
    """The service answers with a status other than success."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.detail = detail


def unprocessable(where: list[str | int], message: str, value: Any) -> Rejected:
    """A 422 as FastAPI words it: with the refused input in it, whatever it is."""
    error = {"type": "value_error", "loc": ["body", *where], "msg": message, "input": value}
    return Rejected(422, [error])


@dataclass(slots=True)
class Session:
    """A session and the settings of its peers."""

    id: str
    workspace: str
    created_at: str
    metadata: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    is_active: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "workspace_id": self.workspace,
            "is_active": self.is_active,
            "metadata": self.metadata,
            "configuration": self.configuration,
            "created_at": self.created_at,
        }


@dataclass(slots=True)
class Workspace:
    """A workspace: its peers, sessions, conclusions, and cards by observer and observed."""

    id: str
    created_at: str
    metadata: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    conclusions: list[dict[str, Any]] = field(default_factory=list)
    cards: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "metadata": self.metadata,
            "configuration": self.configuration,
            "created_at": self.created_at,
        }


class Store:
    """Everything the stand-in knows. Each method is one transaction: it stores all or raises.

    Attributes:
        log: every message in the order of its insertion, of all sessions, deleted ones included.
        concluded: every conclusion likewise; ``after`` is the number of the message before it.
    """

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.log: list[dict[str, Any]] = []
        self.concluded: list[dict[str, Any]] = []
        self._batches = 0

    # -- get or create -------------------------------------------------------------------------

    def workspace(self, body: Mapping[str, Any]) -> Workspace:
        """``POST /workspaces``"""
        return self._workspace(_valid_id(body))

    def peer(self, workspace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /workspaces/{w}/peers``"""
        peer = self._peer(self._workspace(workspace), _valid_id(body))
        peer |= {key: body[key] for key in ("metadata", "configuration") if body.get(key)}
        return peer

    def session(self, workspace: str, body: Mapping[str, Any]) -> Session:
        """``POST /workspaces/{w}/sessions``"""
        session = self._session(workspace, _valid_id(body))
        self.join(session, body.get("peers") or {})
        if body.get("metadata") is not None:
            session.metadata = body["metadata"]
        if body.get("configuration"):
            session.configuration |= body["configuration"]
        return session

    def join(self, session: Session, peers: Mapping[str, dict[str, Any]]) -> None:
        """Make peers members of a session. Those who are keep the settings they have."""
        workspace = self._workspace(session.workspace)
        for peer, settings in peers.items():
            if not _ID.fullmatch(peer):
                raise unprocessable(["peers"], "String should match pattern", peer)
            self._peer(workspace, peer)
            session.peers.setdefault(peer, settings)

    def find(self, workspace: str, session: str) -> Session:
        """A session that exists."""
        found = self._workspace(workspace).sessions.get(session)
        if found is None or not found.is_active:
            raise Rejected(404, f"Session {session} not found in workspace {workspace}")
        return found

    def delete(self, workspace: str, session: str) -> None:
        """``DELETE …/sessions/{s}``: its messages go, and it takes no more."""
        found = self.find(workspace, session)
        found.is_active = False
        found.messages = []

    # -- messages ------------------------------------------------------------------------------

    def add_messages(self, workspace: str, session: str, body: Any) -> list[dict[str, Any]]:
        """``POST …/sessions/{s}/messages``: all of a batch, together, or nothing."""
        entries = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(entries, list) or not 1 <= len(entries) <= BATCH_LIMIT:
            raise unprocessable(["messages"], f"List should have 1 to {BATCH_LIMIT} items", body)
        batch = [_valid_message(index, entry) for index, entry in enumerate(entries)]
        if not (_ID.fullmatch(session) and all(_ID.fullmatch(entry["peer_id"]) for entry in batch)):
            # The service finds out while it creates them implicitly, and breaks.
            raise Rejected(500, "An unexpected error occurred")
        target = self._session(workspace, session)
        self.join(target, {entry["peer_id"]: {} for entry in batch})
        self._batches += 1
        now = _now()
        for entry in batch:
            number = len(self.log) + 1
            stored = {
                "id": f"message-{number}",
                "content": entry["content"],
                "peer_id": entry["peer_id"],
                "session_id": session,
                "workspace_id": workspace,
                "metadata": entry["metadata"],
                "created_at": entry["created_at"] or now,
                "token_count": len(entry["content"]) // 4,
            }
            entry["stored"] = stored
            target.messages.append(stored)
            self.log.append(
                {
                    "number": number,
                    "batch": self._batches,
                    "workspace": workspace,
                    "session": session,
                    "peer": stored["peer_id"],
                    "content": stored["content"],
                    "metadata": stored["metadata"],
                    "created_at": stored["created_at"],
                }
            )
        return [entry["stored"] for entry in batch]

    def list_messages(
        self, workspace: str, session: str, filters: Any, *, reverse: bool
    ) -> list[dict[str, Any]]:
        """``POST …/sessions/{s}/messages/list``: by insertion, never by ``created_at``."""
        found = self._workspace(workspace).sessions.get(session)
        messages = select(found.messages, filters) if found else []
        return messages[::-1] if reverse else messages

    # -- conclusions ---------------------------------------------------------------------------

    def add_conclusions(self, workspace: str, body: Any) -> list[dict[str, Any]]:
        """``POST …/conclusions``: nothing is created implicitly here, and duplicates are kept."""
        entries = body.get("conclusions") if isinstance(body, dict) else None
        if not isinstance(entries, list) or not 1 <= len(entries) <= BATCH_LIMIT:
            raise unprocessable(["conclusions"], f"List should have 1 to {BATCH_LIMIT} items", body)
        known = self._workspace(workspace)
        batch = [_valid_conclusion(index, entry) for index, entry in enumerate(entries)]
        for entry in batch:
            if entry["session_id"] is not None:
                self.find(workspace, entry["session_id"])
            for peer in (entry["observer_id"], entry["observed_id"]):
                if peer not in known.peers:
                    raise Rejected(404, f"Peer {peer} not found in workspace {workspace}")
        now = _now()
        for entry in batch:
            number = len(self.concluded) + 1
            self.concluded.append(
                {
                    "number": number,
                    "after": len(self.log),
                    "workspace": workspace,
                    "session": entry["session_id"],
                    "observer": entry["observer_id"],
                    "observed": entry["observed_id"],
                    "content": entry["content"],
                }
            )
            entry |= {"id": f"conclusion-{number}", "level": "explicit", "created_at": now}
        known.conclusions += batch
        return batch

    def list_conclusions(
        self, workspace: str, filters: Any, *, reverse: bool
    ) -> list[dict[str, Any]]:
        """``POST …/conclusions/list``: the newest first, unless reversed."""
        found = select(self._workspace(workspace).conclusions, filters)
        return found if reverse else found[::-1]

    # -- how -----------------------------------------------------------------------------------

    def _workspace(self, name: str) -> Workspace:
        found = self.workspaces.get(name)
        if found is None:
            found = self.workspaces[name] = Workspace(name, _now())
        return found

    def _peer(self, workspace: Workspace, name: str) -> dict[str, Any]:
        found = workspace.peers.get(name)
        if found is None:
            found = workspace.peers[name] = {
                "id": name,
                "workspace_id": workspace.id,
                "created_at": _now(),
                "metadata": {},
                "configuration": {},
            }
        return found

    def _session(self, workspace: str, name: str) -> Session:
        known = self._workspace(workspace)
        found = known.sessions.get(name)
        if found is None:
            found = known.sessions[name] = Session(name, workspace, _now())
        elif not found.is_active:
            raise Rejected(404, f"Session {name} not found in workspace {workspace}")
        return found


def select(rows: Iterable[dict[str, Any]], filters: Any) -> list[dict[str, Any]]:
    """The rows that filters let through: ``{"column": value}``, ``{"metadata": {"key": value}}``.

    A value is a scalar, ``{"in": [...]}`` or the wildcard ``"*"``; ``in`` works one level deep in
    the metadata, and a bare list silently finds nothing there.
    """
    if not filters:
        return list(rows)
    if not isinstance(filters, dict):
        raise unprocessable(["filters"], "Input should be a valid dictionary", filters)
    rows = list(rows)
    for column, condition in filters.items():
        if column == "metadata":
            if not isinstance(condition, dict):
                raise unprocessable(["filters", column], "a JSONB column takes an object", filters)
            for key, wanted in condition.items():
                rows = [row for row in rows if _matches(row["metadata"].get(key), wanted)]
        elif column in ("peer_id", "session_id", "observer_id", "observed_id", "created_at"):
            wanted = {"in": condition} if isinstance(condition, list) else condition
            rows = [row for row in rows if _matches(row.get(column), wanted)]
        else:
            raise unprocessable(["filters", column], "the stand-in has no such filter", filters)
    return rows


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and set(wanted) == {"in"} and isinstance(wanted["in"], list):
        return "*" in wanted["in"] or value in wanted["in"]
    return bool(wanted == "*" or (not isinstance(wanted, list) and value == wanted))


def _valid_id(body: Any) -> str:
    value = body.get("id") if isinstance(body, dict) else None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise unprocessable(["id"], "String should match pattern '^[a-zA-Z0-9_-]+$'", body)
    return value


def _valid_message(index: int, entry: Any) -> dict[str, Any]:
    where: list[str | int] = ["messages", index]
    if not isinstance(entry, dict):
        raise unprocessable(where, "Input should be a valid dictionary", entry)
    content, peer = entry.get("content"), entry.get("peer_id")
    if not isinstance(content, str) or _SURROGATE.search(content):
        raise unprocessable([*where, "content"], "Input should be a valid string", repr(entry))
    if len(content) > CONTENT_LIMIT:
        raise unprocessable([*where, "content"], "String is too long", content)
    content = content.replace("\0", "")
    if _SPECIAL_TOKEN.search(content):
        raise unprocessable(where, "Encountered text corresponding to disallowed token", entry)
    if not isinstance(peer, str):
        raise unprocessable([*where, "peer_id"], "Field required", entry)
    metadata = entry.get("metadata")
    if metadata is not None and not _valid_metadata(metadata):
        raise unprocessable([*where, "metadata"], "Metadata exceeds its limits", entry)
    return {
        "content": content,
        "peer_id": peer,
        "metadata": metadata or {},
        "created_at": _valid_time(where, entry.get("created_at")),
    }


def _valid_conclusion(index: int, entry: Any) -> dict[str, Any]:
    where: list[str | int] = ["conclusions", index]
    if not isinstance(entry, dict):
        raise unprocessable(where, "Input should be a valid dictionary", entry)
    content = entry.get("content")
    if not isinstance(content, str) or _SURROGATE.search(content):
        raise unprocessable([*where, "content"], "Input should be a valid string", repr(entry))
    if not 1 <= len(content) <= CONCLUSION_LIMIT:
        raise unprocessable([*where, "content"], "String is too short or too long", content)
    content = content.replace("\0", "")
    if _SPECIAL_TOKEN.search(content):
        raise unprocessable(where, "Encountered text corresponding to disallowed token", entry)
    for name in ("observer_id", "observed_id"):
        if not isinstance(entry.get(name), str):
            raise unprocessable([*where, name], "Field required", entry)
    return {
        "content": content,
        "observer_id": entry["observer_id"],
        "observed_id": entry["observed_id"],
        "session_id": entry.get("session_id"),
    }


def _valid_metadata(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= METADATA_KEYS
        and _depth(metadata) <= METADATA_DEPTH
    )


def _depth(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    return 1 + max(map(_depth, value.values()), default=0)


def _valid_time(where: list[str | int], value: Any) -> str | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise unprocessable([*where, "created_at"], "Input is not a datetime", value) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
