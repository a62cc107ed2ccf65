"""Scripts as they are, but for the clock, what they publish, and a rule undone.

Leases, sleepers and grace must pass at will in a test, and the clock must also step back: it is a
key that the test sets. What is published is put into a list, where nothing is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import redis

from hermes_tasks.transport import scripts

Edits = Mapping[str, Sequence[tuple[str, str]]]

CLOCK = "clock"
_TIME = "redis.call('TIME')"
_TEST_TIME = f"redis.call('HMGET', '{CLOCK}', 's', 'us')"
ANNOUNCED = "announced"
_PUBLISH = "redis.pcall('PUBLISH', SESSION, '')"
_TEST_PUBLISH = f"redis.call('RPUSH', '{ANNOUNCED}', SESSION)"


@contextmanager
def edited_scripts(edits: Edits) -> Iterator[None]:
    """All scripts on the test's clock, with texts replaced; each must be there exactly once."""
    original = scripts._text

    def edited(name: str, package: str = scripts.__package__) -> str:
        text = original(name, package)
        for old, new in edits.get(name, ()):
            if text.count(old) != 1:  # not an AssertionError, which would be taken for a find
                raise LookupError(f"{name}.lua has changed: {old!r}")
            text = text.replace(old, new)
        return text.replace(_TIME, _TEST_TIME).replace(_PUBLISH, _TEST_PUBLISH)

    def forget() -> None:
        for cached in vars(scripts).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()

    scripts._text = edited
    forget()
    try:
        yield
    finally:
        scripts._text = original
        forget()


def set_clock(client: redis.Redis, now: int) -> None:
    """``now``: in ms."""
    client.hset(CLOCK, mapping={"s": now // 1000, "us": now % 1000 * 1000})
