"""Cleaning and splitting: what leaves the gateway is what Honcho takes, and nothing is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_tasks.text import CONTENT_LIMIT, CONTINUED, clean, is_blank, split

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
TOKENS = re.compile(r"<\|endof(text|prompt)\|>")
SPICED = st.lists(
    st.sampled_from(
        [
            "<|endoftext|>",
            "<|endofprompt|>",
            "<|",
            "endof",
            "text|>",
            "\0",
            "\ud83d",
            "\ude00",
            "a ",
        ]
    )
    | ANY_TEXT
).map("".join)
PROSE = st.lists(
    st.sampled_from(["word", " ", ". ", "\n\n", "\n", "!\u201d ", "\u3002", "x" * 40, "\u4f60"])
).map("".join)


@given(SPICED)
def test_cleaned_text_encodes_and_holds_no_special_token_even_after_the_server_strips_nul(
    text: str,
) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert "\0" not in cleaned
    assert not TOKENS.search(cleaned)
    assert not TOKENS.search(text.replace("\0", "")) or "\u200d" in cleaned or "\u2400" in cleaned


@given(SPICED)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text())
def test_ordinary_text_is_left_alone(text: str) -> None:
    if "\0" not in text and not TOKENS.search(text):
        assert clean(text) == text


def test_a_special_token_is_restored_by_removing_the_joiner() -> None:
    assert clean("a <|endoftext|> b").replace("\u200d", "") == "a <|endoftext|> b"


def test_surrogate_pairs_become_their_character_and_lone_ones_a_replacement() -> None:
    assert clean("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_whitespace_is_blank(text: str) -> None:
    assert is_blank(text)


@given(PROSE, st.integers(20, 200))
def test_parts_are_within_the_limit_and_together_are_the_text(text: str, limit: int) -> None:
    first, *rest = split(text, limit)
    assert all(len(part) <= limit for part in [first, *rest])
    assert all(part.startswith(CONTINUED) for part in rest)
    assert first + "".join(part.removeprefix(CONTINUED) for part in rest) == text


@given(PROSE, st.integers(20, 200))
def test_no_part_is_empty_and_their_number_is_bounded(text: str, limit: int) -> None:
    parts = split(text, limit)
    room = limit - len(CONTINUED)
    assert all(part.removeprefix(CONTINUED) for part in parts) or not text
    assert len(parts) <= 2 + len(text) / max(1, int(room * 0.3))


def test_the_limit_is_honchos_and_the_prefix_counts() -> None:
    assert split("x" * CONTENT_LIMIT) == ["x" * CONTENT_LIMIT]
    assert [len(part) for part in split("x" * (2 * CONTENT_LIMIT))] == [25_000, 25_000, 24]


def test_a_paragraph_is_preferred_to_a_sentence_and_a_sentence_to_a_word() -> None:
    paragraph = "First one. Second one.\n\nThird one here. And more of it to come"
    assert split(paragraph, 45)[0] == "First one. Second one.\n\n"
    assert split("First sentence. Second one and on", 30)[0] == "First sentence. "
    assert split("several words without any end at all", 30)[0] == "several words without any end "
    assert split("x" * 31, 30)[0] == "x" * 30


def test_a_cut_that_would_waste_most_of_a_part_is_not_taken() -> None:
    assert split("Hi.\n\n" + "some words " * 10, 60)[0].startswith("Hi.\n\nsome words")
