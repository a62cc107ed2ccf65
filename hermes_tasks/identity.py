"""Ids that Honcho accepts, made from any key without two keys ever meeting in one id."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from hermes_tasks.errors import InvalidTurn

ID_LIMIT = 100
"""Longest id in characters. Honcho takes 512, Hermes 100: the same id must serve both."""

_VALID = re.compile(rf"[A-Za-z0-9_-]{{1,{ID_LIMIT}}}")
_TURN_ID = re.compile(rf"[A-Za-z0-9_:-]{{1,{ID_LIMIT}}}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_LENGTH = 10


def honcho_id(raw: str, field: str = "id") -> str:
    """Make a session, peer or workspace id that Honcho accepts (``^[A-Za-z0-9_-]{1,100}$``).

    A valid id is returned as it is. In any other, foreign characters become ``-``, the rest is cut
    to fit, and a hash of the whole key is appended: ``telegram:42`` becomes
    ``telegram-42-65d845547d`` and never meets ``telegram-42``.

    Args:
        raw: the caller's key, of any length and in any script.
        field: what to call it in the error.

    Raises:
        InvalidTurn: the key is empty or not a string.
    """
    if not isinstance(raw, str):
        raise InvalidTurn(f"{field} must be a string, not {type(raw).__name__}")
    if not raw:
        raise InvalidTurn(f"{field} is empty")
    return _made(raw)


@lru_cache(maxsize=1_000)  # a gateway has the same few sessions and peers again and again
def _made(raw: str) -> str:
    if valid := _VALID.fullmatch(raw):
        return valid[0]  # a string, also where the key is a member of an enumeration of strings
    # `surrogatepass`: a key from a file name may hold lone surrogates, and is a key all the same.
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    readable = _FOREIGN.sub("-", raw[: ID_LIMIT - _DIGEST_LENGTH - 1])
    return f"{readable}-{digest}"


def is_honcho_id(value: object) -> bool:
    """Whether a value is an id as :func:`honcho_id` makes them."""
    return isinstance(value, str) and _VALID.fullmatch(value) is not None


def is_turn_id(value: object) -> bool:
    """Whether a value can be a turn id.

    Nothing outside ``[A-Za-z0-9_:-]`` may be in one: it is looked up by a filter of Honcho in which
    ``*`` is a wildcard that matches every message.
    """
    return isinstance(value, str) and _TURN_ID.fullmatch(value) is not None
