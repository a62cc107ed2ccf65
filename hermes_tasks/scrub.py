"""Recalled memory kept out of what is remembered.

A host puts what it recalled into the prompt, between ``<memory-context>`` tags or under a heading
``## Honcho Context``. A model, or a person quoting it, may say it again; remembered, it would be
recalled once more, as if it had been said anew. So it is taken out of every turn:

- a ``<memory-context>`` span, tags included; one without an end reaches to the end of the text;
- a closing tag without a span, the tag alone;
- a ``## Honcho Context`` heading at the beginning of a line, and everything after it.

Case does not matter, nor does white space where the host allows it. What a removal joins is looked
at again: taking out a span never makes a tag of what stood around it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# What is looked for, atom by atom: a piece of text may end after any of them.
_NAME = tuple("memory-context")
_OPEN = ("<", r"\s*", *_NAME, r"\s*", ">")
_CLOSE = ("<", "/", r"\s*", *_NAME, r"\s*", ">")
_LINE_BEGINS = r"(?<![^\n])"
_HEADING = (r"[ ]{0,3}", "#", "#", r"[ \t]+", *"honcho", r"[ \t]+", *"context")


def _backwards(atoms: Sequence[str], end: str = "") -> str:
    """Every beginning of it, read from its last letter to its first."""
    return "|".join("".join(atoms[n::-1]) + end for n in range(len(atoms)))


_TOKEN = re.compile(
    rf"(?P<open>{''.join(_OPEN)})|{''.join(_CLOSE)}"
    # `## Honcho Contextual` is another heading: the character after it decides.
    rf"|(?P<heading>{_LINE_BEGINS}{''.join(_HEADING)}(?=\W))",
    re.IGNORECASE,
)
_BEGINNING = re.compile(
    "|".join((_backwards(_OPEN[:-1]), _backwards(_CLOSE[:-1]), _backwards(_HEADING, r"(?![^\n])"))),
    re.IGNORECASE,
)
_HEADING_ALONE = re.compile("".join(_HEADING), re.IGNORECASE)
_SPAN_END = re.compile("".join(_CLOSE), re.IGNORECASE)
_SPAN_END_BEGINNING = re.compile(_backwards(_CLOSE[:-1]), re.IGNORECASE)


def scrub(text: str) -> str:
    """A text without the memory that was recalled for it.

    ``scrub(scrub(text)) == scrub(text)``. Where there is nothing to remove, it is the same object.
    """
    # Most texts; a single letter is looked for in a tenth of the time that two take.
    if "<" not in text and ("#" not in text or "##" not in text):
        return text
    if "memory-context" not in (lower := text.lower()) and "honcho" not in lower:
        return text
    scrubber = StreamScrubber()
    return scrubber.feed(text) + scrubber.flush()


class StreamScrubber:
    """The same for a text that comes in pieces: all it returns, joined, is ``scrub`` of the whole.

    What may be the beginning of a tag or of the heading is held until more comes::

        scrubber = StreamScrubber()
        for delta in answer:
            show(scrubber.feed(delta))
        show(scrubber.flush())
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new text; what was held of the last one is forgotten."""
        # Beginnings of tags, one after another. Only the last can go on; it is taken away when it
        # becomes a tag, and then the one before may.
        self._held: list[str] = []
        # The character before them: a heading begins a line, and a text begins one.
        self._shown = "\n"
        # In a span: as much of its end as may be the beginning of the closing tag.
        self._span: str | None = None
        self._ended = False

    def feed(self, delta: str) -> str:
        """Take the next piece; returns what can be shown by now."""
        shown: list[str] = []
        rest = delta
        while rest and not self._ended:
            rest = self._read(rest, shown) if self._span is None else self._skip(rest)
        return "".join(shown)

    def flush(self) -> str:
        """The text has ended: returns what was held and was no tag after all. Then begins anew."""
        # Only now is it known that no letter follows a heading.
        if self._held and _HEADING_ALONE.fullmatch(self._held[-1]):
            self._held.pop()
        held = "".join(self._held)
        self.reset()
        return held

    def _read(self, rest: str, shown: list[str]) -> str:
        """Show what comes before the next tag; returns what comes after it."""
        last = self._held.pop() if self._held else ""
        text = (self._held[-1][-1] if self._held else self._shown) + last + rest
        token = _TOKEN.search(text, 1)
        if token is None:
            self._show(text, shown)
            return ""
        self._show(text[: token.start()], shown)
        if token["heading"]:
            self._ended = True
        elif token["open"]:
            self._span = ""
        return text[token.end() :]

    def _show(self, text: str, shown: list[str]) -> None:
        """Show all of a text but the beginnings of tags it ends with. Its first letter was shown,
        or is held."""
        end, beginnings = len(text), []
        backwards = text[::-1]
        while beginning := _BEGINNING.match(backwards, len(text) - end):
            start = len(text) - beginning.end()
            if start < 1 or start == end:
                break
            beginnings.append(text[start:end])
            end = start
        if end > 1:
            # Something that is none: what is held before it cannot go on any more.
            shown += [*self._held, text[1:end]]
            self._held.clear()
            self._shown = text[end - 1]
        self._held += reversed(beginnings)

    def _skip(self, rest: str) -> str:
        """Drop a span up to its end; returns what comes after it."""
        text = (self._span or "") + rest
        end = _SPAN_END.search(text)
        if end is None:
            beginning = _SPAN_END_BEGINNING.match(text[::-1])
            self._span = text[len(text) - beginning.end() :] if beginning else ""
            return ""
        self._span = None
        return text[end.end() :]
