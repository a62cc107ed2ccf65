"""Which rows of an outbox are of which session, in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

SWEEP_AT = 1_000
"""Numbers, with those forgotten, that are kept in any case: some 10 KB."""


class Numbers:
    """The numbers of an outbox's rows by session, each session's in rising order.

    What :meth:`forget_up_to` forgets is merely not counted any more, and swept out when it is as
    much as what is left: a batch that is forgotten costs next to nothing.
    """

    def __init__(self) -> None:
        self._by_session: dict[str, list[int]] = {}
        self._newest = self._gone = 0
        self._size = 0
        self._sweep_at = SWEEP_AT

    def add(self, session_key: str, number: int) -> None:
        """A row was added: its number is above all others."""
        numbers = self._by_session.get(session_key)
        if numbers is None:
            self._by_session[session_key] = [number]
        else:
            numbers.append(number)
        self._newest = number
        self._size += 1

    def remove(self, session_key: str, number: int) -> None:
        """A row of a session is not there any more."""
        numbers = self._by_session.get(session_key, [])
        at = bisect_left(numbers, number)
        if at < len(numbers) and numbers[at] == number:
            del numbers[at]
            self._size -= 1
            if not numbers:
                del self._by_session[session_key]

    def forget_up_to(self, number: int) -> None:
        """No row up to this number is there any more."""
        self._gone = number = max(number, self._gone)
        if number >= self._newest:
            self._by_session, self._size = {}, 0
        elif self._size >= self._sweep_at:
            left = {
                session_key: numbers[bisect_right(numbers, number) :]
                for session_key, numbers in self._by_session.items()
                if numbers[-1] > number
            }
            self._by_session = left
            self._size = sum(map(len, left.values()))
            self._sweep_at = max(SWEEP_AT, 2 * self._size)

    def latest(self, session_key: str) -> int | None:
        """The newest row of a session; ``None``: it has none."""
        numbers = self._by_session.get(session_key)
        return numbers[-1] if numbers and numbers[-1] > self._gone else None

    def up_to(self, session_key: str, number: int) -> list[int]:
        """The rows of a session that are not newer than this one, oldest first."""
        numbers = self._by_session.get(session_key, [])
        return numbers[bisect_right(numbers, self._gone) : bisect_right(numbers, number)]

    def count(self, session_key: str, above: int, number: int) -> int:
        """How many rows of a session are newer than ``above`` and not newer than ``number``."""
        numbers = self._by_session.get(session_key, [])
        above = max(above, self._gone)
        return max(0, bisect_right(numbers, number) - bisect_right(numbers, above))
