"""Ids: valid whatever the key, and different for different keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_tasks.errors import InvalidTurn
from hermes_tasks.identity import honcho_id, is_honcho_id, is_turn_id

VALID = re.compile(r"[A-Za-z0-9_-]{1,100}")
ANY_KEY = st.text(st.characters(codec=None, exclude_categories=()), min_size=1)


@given(ANY_KEY)
def test_any_key_becomes_a_valid_id_which_stays_as_it_is(raw: str) -> None:
    made = honcho_id(raw)
    assert VALID.fullmatch(made)
    assert is_honcho_id(made)
    assert honcho_id(made) == made


@given(st.from_regex(VALID, fullmatch=True))
def test_a_valid_id_passes_unchanged(raw: str) -> None:
    assert honcho_id(raw) == raw


@given(st.lists(st.text("ab:/-_ \u00e9", min_size=1), unique=True))
def test_different_keys_never_meet(keys: list[str]) -> None:
    assert len({honcho_id(key) for key in keys}) == len(keys)


def test_keys_that_look_alike_are_kept_apart() -> None:
    alike = ["telegram:42", "telegram-42", "telegram/42", "telegram:42\n", "telegram-42\n"]
    assert len({honcho_id(key) for key in alike}) == len(alike)
    assert honcho_id("telegram:42") == "telegram-42-65d845547d"


def test_long_keys_that_differ_at_the_end_are_kept_apart() -> None:
    one, two = honcho_id("k" * 4999 + "1"), honcho_id("k" * 4999 + "2")
    assert one != two
    assert len(one) == len(two) == 100


@pytest.mark.parametrize("raw", ["", None, 42, b"bytes"])
def test_what_is_no_key_is_refused_by_name(raw: object) -> None:
    with pytest.raises(InvalidTurn, match=r"^session "):
        honcho_id(raw, "session")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "*", "a" * 101, "a\n", "a b", "\u00e9", None, 1])
def test_a_turn_id_with_a_wildcard_or_a_foreign_character_is_not_one(value: object) -> None:
    assert not is_turn_id(value)


def test_a_turn_id_may_name_its_source() -> None:
    assert is_turn_id("state:20260131_aa-bb:17")
