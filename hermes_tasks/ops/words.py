"""Numbers in words, the same wherever people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """A time span in its two largest units: ``0.4 s``, ``45 s``, ``12 min 5 s``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    left = round(seconds)
    largest = next(number for number, (size, _) in enumerate(_UNITS) if left >= size)
    parts = []
    for size, unit in _UNITS[largest : largest + 2]:
        if left >= size:
            parts.append(f"{left // size} {unit}")
        left %= size
    return " ".join(parts)


def clock(at: float, now: float | None = None) -> str:
    """A time of the Redis clock: ``20:12:01 UTC``, with its date if ``now`` is another day."""
    when = datetime.fromtimestamp(at, UTC)
    is_today = now is not None and when.date() == datetime.fromtimestamp(now, UTC).date()
    return when.strftime("%H:%M:%S UTC" if is_today else "%Y-%m-%d %H:%M:%S UTC")


def count(number: int, one: str, many: str = "") -> str:
    """``1 turn``, ``12,345 turns``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
