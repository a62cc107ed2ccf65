"""Recalled memory is taken out of a text, however the text is cut into pieces."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes_tasks.scrub import StreamScrubber, scrub

OPEN = re.compile(r"<\s*memory-context\s*>\Z", re.IGNORECASE)
CLOSE = re.compile(r"</\s*memory-context\s*>\Z", re.IGNORECASE)
HEADING = r"(?<![^\n]) {0,3}##[ \t]+honcho[ \t]+context"
BEGUN = re.compile(HEADING + r"(?=\W\Z)", re.IGNORECASE)
LAST = re.compile(HEADING + r"\Z", re.IGNORECASE)


def by_the_letter(text: str) -> str:
    """The rules once more, letter by letter and slow."""
    out, span, inside = "", "", False
    for letter in text:
        if inside:
            span += letter
            inside = CLOSE.search(span) is None
            continue
        out += letter
        if OPEN.search(out):
            out, span, inside = OPEN.sub("", out), "", True
        elif CLOSE.search(out):
            out = CLOSE.sub("", out)
        elif heading := BEGUN.search(out):
            return out[: heading.start()]
    heading = LAST.search(out)
    return out[: heading.start()] if heading and not inside else out


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nothing to remove", "nothing to remove"),
        ("Hi <memory-context>recalled</memory-context> there", "Hi  there"),
        ("<MEMORY-Context>\n[System note: …]\n</memory-CONTEXT>\n\nHello", "\n\nHello"),
        ("< memory-context >a</ memory-context >b", "b"),
        ("one<memory-context>never closed, so all of this", "one"),
        ("a</memory-context>b", "ab"),
        ("<memory-context>a<memory-context>b</memory-context>c", "c"),
        ("A cat.\n\n## Honcho Context\nlikes cats\n## More\nand dogs", "A cat.\n\n"),
        ("  ## honcho  CONTEXT", ""),
        ("what ## Honcho Context means", "what ## Honcho Context means"),
        ("## Honcho Contextual design", "## Honcho Contextual design"),
        ("### Honcho Context", "### Honcho Context"),
        # What a removal joins is looked at again.
        ("<memory-<memory-context>x</memory-context>context>secret</memory-context>.", "."),
        ("1 < 2 and <memory of it", "1 < 2 and <memory of it"),
    ],
)
def test_what_is_removed(text: str, left: str) -> None:
    assert scrub(text) == left == by_the_letter(text)


def test_a_text_without_any_of_it_is_the_same_object() -> None:
    text = "x" * 1_000 + " <b>"
    assert scrub(text) is text


WORDS = (
    "<memory-context>",
    "</memory-context>",
    "< Memory-Context\t>",
    "</",
    "<",
    "memory-",
    "con",
    "context>",
    "\n## Honcho Context",
    "## honcho ",
    "context",
    "\n",
    "   ",
    "ual",
    "#",
    "é",
)
TEXTS = st.lists(
    st.sampled_from(WORDS) | st.text("<>/#\n ahncotexmry-", max_size=6), max_size=12
).map("".join)


@given(TEXTS, st.data())
@example("a<memory-context>b</memory-context>c", None)
@example("## honcho <</memory-context>/memory-context>context", None)
def test_any_way_of_cutting_gives_what_the_whole_text_gives(
    text: str, data: st.DataObject | None
) -> None:
    cuts = (
        list(range(len(text) + 1))
        if data is None
        else sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=15)))
    )
    edges = [0, *cuts, len(text)]
    scrubber = StreamScrubber()
    shown = "".join(scrubber.feed(text[a:b]) for a, b in pairwise(edges))

    assert shown + scrubber.flush() == by_the_letter(text) == scrub(text)
    assert scrub(scrub(text)) == scrub(text)


def test_what_cannot_be_a_tag_is_shown_at_once_and_the_rest_is_held() -> None:
    scrubber = StreamScrubber()

    assert scrubber.feed("level <3 and <memo") == "level <3 and "
    assert scrubber.feed("ry") == ""
    assert scrubber.feed(" lane") == "<memory lane"
    assert scrubber.feed(" <") == " "
    assert scrubber.flush() == "<"


def test_a_new_text_owes_nothing_to_the_last() -> None:
    scrubber = StreamScrubber()
    scrubber.feed("<memory-context>recalled")
    scrubber.flush()
    assert scrubber.feed("A new turn") == "A new turn"

    scrubber.feed("\n## Honcho Context\n")
    scrubber.reset()
    assert scrubber.feed("and another") == "and another"


def test_long_texts_take_time_in_proportion() -> None:
    def seconds(text: str) -> float:
        begun = time.perf_counter()
        scrub(text)
        return time.perf_counter() - begun

    for unit in (
        "<memory-context>x</memory-context>",
        "<",
        "< ",
        "\n  #",
        "</memory-context",
        " \n",
    ):
        text = unit * (100_000 // len(unit)) + "memory-context"
        assert seconds(text) < 2.0, unit
