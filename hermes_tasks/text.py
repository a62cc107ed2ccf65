"""What Honcho accepts as the content of a message: cleaning and splitting.

The limits are measured on the server (version 3.0.12): a content of more than 25,000 characters, or
one that holds a special token of the tokenizer, is refused together with its whole batch.
"""

from __future__ import annotations

import re

CONTENT_LIMIT = 25_000
"""Longest content of one message, in characters (code points, not bytes)."""

CONTINUED = "[continued] "
"""What every part of a split message but the first begins with. Hermes uses the same words."""

_JOINER = "\u200d"
"""Zero-width joiner: invisible inside a special token, and removing it restores the text."""

_NUL = "\u2400"
"""SYMBOL FOR NULL: the server strips NUL silently, so its picture stands where it was."""

_SPECIAL_TOKEN = re.compile(r"<\|(?=endof(?:text|prompt)\|>)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]|\n")
_WORD_END = re.compile(r"\s")

_LEAST_FILL = 0.3
"""A cut this early (share of the room) wastes more than a nicer place is worth. As in Hermes."""


def clean(text: str) -> str:
    """Make a text acceptable to Honcho, changing as little as can be.

    A special token gets a zero-width joiner inside, NUL becomes its picture U+2400, a surrogate
    pair (text that came as UTF-16) becomes its character and a lone surrogate U+FFFD. Anything else
    stays as it is, and ``clean(clean(text)) == clean(text)``.
    """
    if "\0" in text:
        text = text.replace("\0", _NUL)
    # An ASCII text, the common case, is known to have no surrogates without looking at it.
    if not text.isascii() and _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if "<|endof" in text:
        text = _SPECIAL_TOKEN.sub("<|" + _JOINER, text)
    return text


def is_blank(text: str) -> bool:
    """Whether there is nothing in a text to remember: it is empty or only whitespace."""
    return not text or text.isspace()


def split(text: str, limit: int = CONTENT_LIMIT) -> list[str]:
    """Split a text into parts of at most ``limit`` characters, prefix included.

    The cut is after a paragraph, else after a sentence or line, else after a word, else anywhere.
    Every part but the first begins with :data:`CONTINUED`; without the prefixes the parts joined
    are the text again, character for character.

    Args:
        text: a cleaned text, see :func:`clean`.
        limit: in characters; more than the prefix is long.
    """
    if len(text) <= limit:
        return [text]
    parts: list[str] = []
    start, prefix = 0, ""
    while len(text) - start > limit - len(prefix):
        end = _cut(text, start, start + limit - len(prefix))
        parts.append(prefix + text[start:end])
        start, prefix = end, CONTINUED
    parts.append(prefix + text[start:])
    return parts


def _cut(text: str, start: int, end: int) -> int:
    """The best place in ``text[start:end]`` for a part to end."""
    least = start + int((end - start) * _LEAST_FILL) + 1
    paragraph = text.rfind("\n\n", least, end)
    if paragraph >= 0:
        return paragraph + 2
    for boundary in (_SENTENCE_END, _WORD_END):
        cut = max((match.end() for match in boundary.finditer(text, least, end)), default=-1)
        if cut > 0:
            return cut
    return end
