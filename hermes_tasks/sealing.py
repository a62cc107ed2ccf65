"""Turns sealed at rest: what was said is encrypted where it waits, in the outbox and in Redis.

A gateway that has keys (``HERMES_TASKS_ENCRYPTION_KEYS``) seals every turn before it is stored
anywhere; a worker that has them opens it right before it is written. Whatever has to be known on
the way stays readable: which session of which backend it belongs to, its id, and how much it is::

    {"v": 2, "turn_id": "5f…", "backend": "default", "workspace": "w", "session": "telegram-42-…",
     "messages": 2, "characters": 1044, "key": "9c1f03ab", "sealed": "gAAAAA…", "ask": true}

``sealed`` is a Fernet token (AES-128-CBC and HMAC-SHA256, from ``cryptography``) of the whole turn
as :meth:`~hermes_tasks.turns.Turn.to_json` gives it, so that one moved into the envelope of another
turn is noticed. ``key`` is the fingerprint of its key: a worker without that key tells a turn that
it cannot read from one that somebody has changed. The first may be read later, the second never.

The first key seals, all of them open, so that keys can be changed while turns are on their way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, Final

from hermes_tasks.errors import InvalidTurn, MissingExtra, MissingKey
from hermes_tasks.identity import is_honcho_id, is_turn_id
from hermes_tasks.turns import Conclusion, Memory, Turn, from_json

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from hermes_tasks.config import Settings

FORMAT: Final = 2
"""Version of the sealed JSON form. Workers that cannot open any refuse it with a clear error."""

VARIABLE: Final = "HERMES_TASKS_ENCRYPTION_KEYS"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A turn or a conclusion that only who has its key can read.

    Attributes:
        kind, turn_id, backend, workspace, session, ask: as of what is sealed.
        size: number of Honcho messages in it.
        characters: length of all contents together.
        key: fingerprint of the key that opens it.
        token: what is sealed.
    """

    turn_id: str
    backend: str
    workspace: str
    session: str
    size: int
    characters: int
    key: str
    token: str = field(repr=False)
    ask: bool = False
    kind: str = Turn.kind

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sealed:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidTurn: it is not that.
        """
        try:
            sealed = cls(
                turn_id=data["turn_id"],
                backend=data["backend"],
                workspace=data["workspace"],
                session=data["session"],
                size=data["messages"],
                characters=data["characters"],
                key=data["key"],
                token=data["sealed"],
                ask=bool(data.get("ask")),
                kind=data.get("kind", Turn.kind),
            )
        except KeyError as error:
            raise InvalidTurn(f"not a sealed turn: it has no {error.args[0]}") from None
        if not (
            is_turn_id(sealed.turn_id)
            and all(map(is_honcho_id, (sealed.backend, sealed.workspace, sealed.session)))
            and isinstance(sealed.size, int)
            and isinstance(sealed.characters, int)
            and is_honcho_id(sealed.key)
            and isinstance(sealed.token, str)
            and sealed.kind in (Turn.kind, Conclusion.kind)
        ):
            raise InvalidTurn("not a sealed turn: a field of it is not valid")
        return sealed

    def to_json(self) -> dict[str, Any]:
        """The envelope as plain data, ready for any JSON encoder."""
        data: dict[str, Any] = {
            "v": FORMAT,
            "turn_id": self.turn_id,
            "backend": self.backend,
            "workspace": self.workspace,
            "session": self.session,
            "messages": self.size,
            "characters": self.characters,
            "key": self.key,
            "sealed": self.token,
        }
        if self.ask:
            data["ask"] = True
        if self.kind != Turn.kind:
            data["kind"] = self.kind
        return data

    def describe(self) -> str:
        """The same as of what is sealed: no text, only names and numbers."""
        key = f"{self.backend}:{self.workspace}:{self.session}"
        of = "conclusion" if self.kind == Conclusion.kind else f"messages={self.size}"
        return f"session={key}, {of}, characters={self.characters}"


class Keyring:
    """The keys of a process; one that has none opens nothing, and seals nothing.

    Args:
        keys: Fernet keys, 32 bytes in URL-safe base64; the first one seals, each opens.

    Raises:
        MissingExtra: there are keys, but not what it takes to use them.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernets: dict[str, Fernet] = {}
        if not keys:
            return
        try:
            from cryptography.fernet import Fernet
        except ImportError as error:
            raise MissingExtra(
                f"{VARIABLE} is set, which needs: pip install 'hermes-tasks[encryption]'"
            ) from error
        for key in keys:
            self._fernets.setdefault(fingerprint(key), Fernet(key))

    def __bool__(self) -> bool:
        """Whether it has a key, so that turns are to be sealed."""
        return bool(self._fernets)

    def seal(self, turn: Memory) -> Sealed:
        """Seal a turn with the first key."""
        key, fernet = next(iter(self._fernets.items()))
        # A surrogate may come with a turn that another program has made.
        text = json.dumps(turn.to_json(), separators=(",", ":"), ensure_ascii=False)
        return Sealed(
            turn_id=turn.turn_id,
            backend=turn.backend,
            workspace=turn.workspace,
            session=turn.session,
            size=turn.size,
            characters=turn.characters,
            key=key,
            token=fernet.encrypt(text.encode("utf-8", "surrogatepass")).decode(),
            ask=turn.ask,
            kind=turn.kind,
        )

    def read(self, data: Any) -> Memory:
        """Read a turn or a conclusion, sealed or not.

        Raises:
            InvalidTurn: it is neither, is of a newer format, or was changed after it was sealed.
            MissingKey: it is sealed with a key that is not here.
        """
        return from_json(self.open(Sealed.from_json(data)) if is_sealed(data) else data)

    def open(self, sealed: Sealed) -> dict[str, Any]:
        """What is sealed, as plain data.

        Raises:
            InvalidTurn: it was changed after it was sealed.
            MissingKey: it is sealed with a key that is not here.
        """
        fernet = self._fernets.get(sealed.key)
        if fernet is None:
            has = f"has {', '.join(self._fernets)}" if self._fernets else "is not set"
            raise MissingKey(
                f"turns are sealed with the key {sealed.key}, but {VARIABLE} {has}: add that key",
                key=sealed.key,
            )
        from cryptography.fernet import InvalidToken

        try:
            text = fernet.decrypt(sealed.token.encode())
            data: dict[str, Any] = json.loads(text.decode("utf-8", "surrogatepass"))
        except (InvalidToken, ValueError):
            raise InvalidTurn("a sealed turn was changed after it was sealed") from None
        outside = (sealed.turn_id, sealed.backend, sealed.workspace, sealed.session)
        if tuple(map(data.get, ("turn_id", "backend", "workspace", "session"))) != outside:
            raise InvalidTurn("a sealed turn is in the envelope of another one")
        if sealed.ask:
            data["ask"] = True
        return data


def is_sealed(data: object) -> bool:
    """Whether plain data is a sealed turn, rather than one that everybody can read."""
    return isinstance(data, Mapping) and data.get("v") == FORMAT and "sealed" in data


def fingerprint(key: str) -> str:
    """What a key is called where everybody may read it: eight characters, no way back."""
    return blake2s(key.encode(), digest_size=4, person=b"hermes_t").hexdigest()


def keyring_of(settings: Settings | None) -> Keyring:
    """The keys of some settings; errors as :class:`Keyring`."""
    keys = settings.encryption_keys if settings is not None else ()
    return _keyring(tuple(key.get_secret_value() for key in keys))


@lru_cache(maxsize=8)
def _keyring(keys: tuple[str, ...]) -> Keyring:
    return Keyring(keys)
