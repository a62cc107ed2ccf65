"""What a caller may attach to a message: plain JSON, within Honcho's limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from hermes_tasks.errors import InvalidTurn
from hermes_tasks.text import clean

METADATA_KEYS: Final = 97
"""Honcho takes 100 top-level keys; three are ours: ``turn_id``, ``part`` and ``parts``."""

METADATA_DEPTH: Final = 5
"""Deepest nesting of objects in a message's metadata that Honcho takes."""


def plain_metadata(metadata: object, field: str) -> dict[str, Any] | None:
    """A copy of the caller's metadata that encodes without surprise, its texts cleaned.

    Args:
        metadata: a mapping, of whatever the caller has.
        field: what to call it in the error, which names nothing that is in it.

    Returns:
        ``None``: there is nothing in it.

    Raises:
        InvalidTurn: it is no mapping, has no form in JSON, or is beyond what Honcho takes.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidTurn(f"{field} must be a mapping, not {type(metadata).__name__}")
    if len(metadata) > METADATA_KEYS:
        raise InvalidTurn(f"{field} has {len(metadata)} keys, at most {METADATA_KEYS} are stored")
    return _plain(metadata, field, 0) or None


def _plain(value: object, field: str, depth: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidTurn(f"{field} holds a number that JSON has no word for")
        return value
    if depth >= METADATA_DEPTH * 4:
        # Honcho counts objects only; a list in a list without end must stop somewhere, too.
        raise InvalidTurn(f"{field} is nested too deeply")
    if isinstance(value, Mapping):
        if depth >= METADATA_DEPTH:
            raise InvalidTurn(f"{field} is nested more than {METADATA_DEPTH} deep")
        if not all(isinstance(key, str) for key in value):
            raise InvalidTurn(f"{field} has a key that is not a string")
        return {clean(key): _plain(item, field, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, field, depth + 1) for item in value]
    raise InvalidTurn(f"{field} holds a {type(value).__name__}, which JSON has no form for")
