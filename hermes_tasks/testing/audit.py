"""What arrived against what was sent: the only question that counts after a crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer, in turns.

    Attributes:
        sent: turns that should be there.
        written: of them, those that are.
        lost: of them, those that are not.
        twice: those that are there more than once.
        out_of_order: those that stand behind one that was sent after them. Of a turn that is there
            twice, the first counts.
        unknown: entries that nobody sent.
    """

    sent: int = 0
    written: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    unknown: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether exactly what was sent arrived, once each and in order."""
        return not (self.lost or self.twice or self.out_of_order or self.unknown)

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


def audit(sent: Mapping[str, Sequence[str]], stored: Mapping[str, Sequence[str]]) -> Audit:
    """Compare turn ids by session, in the order they were sent and in the order they are stored."""
    total = Audit()
    for session in sent.keys() | stored.keys():
        total += audit_session(sent.get(session, ()), stored.get(session, ()))
    return total


def audit_session(sent: Sequence[str], stored: Sequence[str]) -> Audit:
    """The same for one session."""
    places = {turn: place for place, turn in enumerate(sent)}
    first_of: dict[str, None] = dict.fromkeys(stored)
    written = [turn for turn in first_of if turn in places]
    out_of_order, newest = 0, -1
    for turn in written:
        if places[turn] < newest:
            out_of_order += 1
        newest = max(newest, places[turn])
    return Audit(
        sent=len(places),
        written=len(written),
        lost=len(places) - len(written),
        twice=sum(stored.count(turn) > 1 for turn in written) if len(stored) > len(first_of) else 0,
        out_of_order=out_of_order,
        unknown=len(first_of) - len(written),
    )
