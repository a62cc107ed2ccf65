"""When messages were said: moments in whole microseconds since 1970, in UTC."""

from __future__ import annotations

from calendar import timegm
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from hermes_tasks.errors import InvalidTurn

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

LAST_MOMENT: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
"""The last microsecond of the year 9999: no later one has an ISO 8601 form."""


def moment_of(value: object, field: str) -> int:
    """The moment that a time names, before 1970 a negative one.

    Args:
        value: ISO 8601, a :class:`~datetime.datetime`, or seconds since the epoch. Without an
            offset it is in UTC, as on the server.
        field: what to call it in the error.

    Raises:
        InvalidTurn: it is no time, or not of a year from 1 to 9999.
    """
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value, UTC)
        else:
            raise InvalidTurn(f"{field} must be ISO 8601 or seconds, not {type(value).__name__}")
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        # In UTC it must be of a year from 1 to 9999, too.
        time = time.astimezone(UTC)
        # By its fields: what the difference of two times is, libraries say in their own ways.
        return timegm(time.utctimetuple()) * 1_000_000 + time.microsecond
    except (ValueError, OverflowError, OSError):
        raise InvalidTurn(f"{field} is not a time: give ISO 8601 or seconds") from None


def iso(moment: int) -> str:
    """ISO 8601 with microseconds and offset, in a third of the time that ``isoformat`` takes."""
    second, microseconds = divmod(moment, 1_000_000)
    return f"{_iso_second(second)}.{microseconds:06d}+00:00"


@lru_cache(maxsize=16)
def _iso_second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()[: len("2026-01-31T12:00:00")]
