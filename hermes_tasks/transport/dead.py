"""Dead letters: messages that were given up, kept with their reason until somebody decides.

They are entries of one stream, kept in numbers of about 10,000 and for ``session_dead_max_age``. A
letter is known by its entry, as the same message may be given up, retried and given up again. Its
text stays in Redis unless it is asked for by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any, Self
from urllib.parse import unquote

from hermes_tasks.transport import wire
from hermes_tasks.transport.scripts import script, session_script
from hermes_tasks.transport.sessions import SessionStore, quote_id

#: Letters that one script looks at, puts back or drops: a script stops every other client.
PAGE = 100

# What Redis takes for one: each half below 2**64.
_ENTRY = re.compile(r"\d{1,19}-\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, without its text.

    Attributes:
        entry: names this letter.
        session: whose message it was.
        id: of the message.
        number: its place in the session.
        reason: one word.
        detail: a line, without content.
        attempts: failed ones in a row, when it was given up.
        trace: what it went through; see :mod:`.trace`.
    """

    entry: str
    session: str
    id: str
    number: int
    reason: str
    detail: str
    attempts: int
    trace: str

    @classmethod
    def parse(cls, raw: Sequence[Any]) -> Self:
        """An entry as ``letters.lua`` has it; what is missing in one of a foreigner stays empty."""
        entry, flat = raw
        pairs = iter([text.decode(errors="replace") for text in flat])
        fields = defaultdict(str, zip(pairs, pairs, strict=True))
        return cls(
            entry.decode(),
            fields["session"],
            unquote(fields["id"]),
            _number(fields["number"]),
            fields["reason"],
            fields["detail"],
            _number(fields["attempts"]),
            fields["trace"],
        )

    @property
    def at(self) -> datetime:
        """When it was given up, by the Redis clock."""
        return datetime.fromtimestamp(int(self.entry.partition("-")[0]) / 1000, UTC)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a letter that was to be retried.

    Attributes:
        letter: the one.
        answer: ``front``, ``end``, ``duplicate``, ``full``, ``doubt`` or ``gone``; see
            ``retry.lua``. After the first two the letter is a queued message again.
        number: its place in the session now, if it is queued.
        wait: seconds until it may be written, because an earlier call may land until then.
    """

    letter: DeadLetter
    answer: str
    number: int
    wait: float

    @property
    def is_queued(self) -> bool:
        return self.answer in ("front", "end")


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters of one deployment."""

    store: SessionStore

    def newest(
        self,
        *,
        session: str = "",
        reason: str = "",
        id: str = "",
        limit: int | None = None,
        before: str = "",
    ) -> Iterator[DeadLetter]:
        """Those that match, newest first; of those older than the entry ``before``, if given.

        Raises:
            ValueError: ``before`` is none.
        """
        if before and not _ENTRY.fullmatch(before):
            raise ValueError(f"{before} is no entry")
        return islice(self._matching(f"({before}" if before else "+", session, reason, id), limit)

    def named(self, name: str) -> list[DeadLetter]:
        """The letter of that entry, or else all letters of the message with that id."""
        if _ENTRY.fullmatch(name):
            letter = next(self._matching(name, "", "", ""), None)
            if letter is not None and letter.entry == name:
                return [letter]
        return list(self.newest(id=name))

    def message(self, letter: DeadLetter) -> bytes | None:
        """Its text, or ``None`` if the letter is no longer there."""
        found: Any = self.store.client.xrevrange(self.store.names.dead, letter.entry, letter.entry)
        return found[0][1].get(b"message") if found else None

    def retry(self, letters: Iterable[DeadLetter]) -> Iterator[Retried]:
        """Put letters back into their sessions, those of one session in the order of their numbers.

        A message that has expired is retried without its expiry, or it would only expire again.
        """
        names, options = self.store.names, self.store.options
        bounds = (options.waiting_limit, options.backlog_limit, options.landing_ms)
        ordered = sorted(letters, key=lambda letter: (letter.session, letter.number))
        for session, its in groupby(ordered, key=lambda letter: letter.session):
            while page := list(islice(its, PAGE)):
                pairs = [part for letter in page for part in (letter.entry, self._instead(letter))]
                answers = session_script("retry")(
                    self.store.client,
                    names.session(session),
                    (session, *bounds, *pairs),
                )
                for letter, (answer, number, wait) in zip(page, answers, strict=True):
                    yield Retried(letter, answer.decode(), number, wait / 1000)

    def discard(self, letters: Iterable[DeadLetter]) -> int:
        """Drop letters for good; returns how many were still there."""
        rest, dropped = iter(letters), 0
        while page := [letter.entry for letter in islice(rest, PAGE)]:
            names = self.store.names
            dropped += script("discard")(self.store.client, [names.dead, names.stats], page)
        return dropped

    def discard_older(self, seconds: float) -> int:
        """Drop all letters above an age for good; returns how many."""
        return self._trim(seconds, "dead_purged")

    def trim(self) -> int:
        """Drop the letters above the age that the options give; what every keeper does."""
        return self._trim(self.store.options.dead_max_age, "dead_trimmed")

    def _trim(self, seconds: float, counter: str) -> int:
        names = self.store.names
        arguments = [int(seconds * 1000), counter]
        return int(script("trim")(self.store.client, [names.dead, names.stats], arguments))

    def _matching(self, start: str, session: str, reason: str, id: str) -> Iterator[DeadLetter]:
        wanted = (session, reason, quote_id(id))
        while start:
            last, *found = script("letters", reads=True)(
                self.store.client, [self.store.names.dead], (start, PAGE, *wanted)
            )
            yield from map(DeadLetter.parse, found)
            start = f"({last.decode()}" if last else ""

    def _instead(self, letter: DeadLetter) -> str:
        """What to queue in place of its own message, if that says when it expires; or ``""``."""
        if letter.reason != "expired":
            return ""
        queue = self.store.names.queue(letter.session)
        try:
            message = wire.unpack((self.message(letter) or b"").decode(), queue)
            message["headers"]["expires"] = None
        except (ValueError, TypeError, LookupError, RecursionError):
            return ""
        return wire.pack(message, queue)
