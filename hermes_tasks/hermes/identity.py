"""Whose memory it is: the ids under which a host's session and its peers are known to Honcho.

They come from the host's own configuration, by the host's rules, so that what was remembered before
this provider is still found. Two rules are stricter here:

- no id is longer than 100 characters, whatever it was made of. The host sees to that for the keys
  of its gateways only; a title or the name of a directory can be longer.
- ``pinPeerName`` counts when it is literally ``true``. The host takes the text ``"false"`` for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from hermes_tasks.errors import ConfigurationError
from hermes_tasks.identity import ID_LIMIT, honcho_id

FALLBACK_SESSION = "hermes-default"
"""The host's name of a session that nothing names."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_MEANING = re.compile(r"[A-Za-z0-9]")
_SHORT_DIGEST = 8
_LONGER_DIGESTS = (8, 12, 16, 24, 32, 64)


class HostConfig(Protocol):
    """What is read of the host's ``HonchoClientConfig``."""

    host: str
    workspace_id: str
    api_key: str | None
    base_url: str | None
    environment: str
    timeout: float | None
    peer_name: str | None
    ai_peer: str
    pin_peer_name: bool
    user_peer_aliases: dict[str, str]
    runtime_peer_prefix: str
    enabled: bool
    save_messages: Any
    message_max_chars: int
    write_frequency: str | int
    session_strategy: str
    user_observe_me: bool
    user_observe_others: bool
    ai_observe_me: bool
    ai_observe_others: bool
    raw: dict[str, Any]

    def resolve_session_name(
        self,
        cwd: str | None = None,
        session_title: str | None = None,
        session_id: str | None = None,
        gateway_session_key: str | None = None,
    ) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids of one session of the host, each valid in Honcho as it is.

    Attributes:
        workspace, session: where its turns go.
        user, assistant: its two peers.
    """

    workspace: str
    session: str
    user: str
    assistant: str

    @classmethod
    def of(cls, config: HostConfig, session_id: str, context: Mapping[str, Any]) -> Identity:
        """The ids for a session.

        Args:
            config: the host's.
            session_id: the host's id of the session.
            context: what the host gave ``initialize``: ``gateway_session_key``, ``session_title``,
                ``user_id``, ``user_id_alt``.
        """
        name = (
            config.resolve_session_name(
                session_title=context.get("session_title"),
                session_id=session_id,
                gateway_session_key=context.get("gateway_session_key"),
            )
            or session_id
            or FALLBACK_SESSION
        )
        runtime = [context.get("user_id"), context.get("user_id_alt")]
        return cls(
            workspace=fit(config.workspace_id),
            session=fit(name),
            user=user_peer(config, name, runtime),
            assistant=fit(config.ai_peer),
        )

    def peer(self, name: object) -> str:
        """The peer that a tool's argument means: ``user``, ``ai``, or any peer's id."""
        said = str(name or "user").strip() or "user"
        return {"user": self.user, "ai": self.assistant}.get(said) or fit(said)


def fit(name: str) -> str:
    """A valid id for a name, by the host's rule: foreign characters become ``-``.

    One that is too long keeps its beginning and gets a hash, as the host does with gateway keys. So
    does one of which nothing would be left: names in another script must not all become ``--``.
    """
    plain = _FOREIGN.sub("-", name)
    if not _MEANING.search(plain):
        return honcho_id(name)
    if len(plain) <= ID_LIMIT:
        return plain
    digest = _sha256(name)[:_SHORT_DIGEST]
    return f"{plain[: ID_LIMIT - _SHORT_DIGEST - 1].rstrip('-')}-{digest}"


def user_peer(config: HostConfig, session_name: str, runtime_ids: list[Any]) -> str:
    """The user's peer: the pinned name, else an alias, else the platform's id, else the name.

    Args:
        config: the host's.
        session_name: what the peer is named after when nothing else is known.
        runtime_ids: the platform's ids of the user, the best first; ``None`` where there is none.
    """
    name = str(config.peer_name or "").strip()
    if name and is_pinned(config):
        return fit(name)
    ids = [text for value in runtime_ids if value is not None and (text := str(value).strip())]
    for id in ids:
        alias = config.user_peer_aliases.get(id)
        if isinstance(alias, str) and alias.strip():
            return fit(alias.strip())
    if ids:
        prefix = config.runtime_peer_prefix
        prefix = prefix.strip() if isinstance(prefix, str) else ""
        return _prefixed(config, f"{prefix}{ids[0]}") if prefix else fit(ids[0])
    if name:
        return fit(name)
    channel, colon, chat = session_name.partition(":")
    return fit(f"user-{channel}-{chat}" if colon else f"user-default-{session_name}")


def is_pinned(config: HostConfig) -> bool:
    """Whether the configured peer name goes before the platform's ids: only if literally so."""
    hosts = config.raw.get("hosts") or {}
    block = hosts.get(config.host) or hosts.get(config.host.replace("_", ".", 1)) or {}
    if not config.raw:
        return config.pin_peer_name is True
    for place in (block, config.raw):
        for key in ("pinUserPeer", "pinPeerName"):
            if place.get(key) is not None:
                return place[key] is True
    return False


def observation(config: HostConfig, identity: Identity) -> dict[str, dict[str, bool]]:
    """Who observes whom in the session, as a turn carries it."""
    return {
        identity.user: {
            "observe_me": bool(config.user_observe_me),
            "observe_others": bool(config.user_observe_others),
        },
        identity.assistant: {
            "observe_me": bool(config.ai_observe_me),
            "observe_others": bool(config.ai_observe_others),
        },
    }


def saves_messages(config: HostConfig) -> bool:
    """Whether anything may be written. What looks like a no is one."""
    return str(config.save_messages).strip().lower() not in ("false", "no", "off", "0", "none", "")


def check_address(config: HostConfig) -> None:
    """Check the address of a self-hosted Honcho.

    Raises:
        ConfigurationError: it is none. The message does not quote it: it may hold a password.
    """
    if not config.base_url:
        return
    try:
        url = urlsplit(config.base_url)
        # Reading the port is what makes urllib check it.
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            "baseUrl in honcho.json (or HONCHO_BASE_URL) must be an http:// or https:// address "
            "with a host, such as http://127.0.0.1:8000"
        )


def _prefixed(config: HostConfig, raw: str) -> str:
    """A peer for an id that nobody named. It never meets a peer that somebody did."""
    plain = _FOREIGN.sub("-", raw)
    named = {str(config.peer_name or ""), *map(str, config.user_peer_aliases.values())}
    taken = {fit(name.strip()) for name in named if name.strip()}
    if plain == raw and len(plain) <= ID_LIMIT and plain not in taken:
        return plain
    digest = _sha256(raw)
    for length in _LONGER_DIGESTS:
        candidate = f"{plain[: ID_LIMIT - length - 1]}-{digest[:length]}"
        if candidate not in taken:
            return candidate
    return honcho_id(raw + digest)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
