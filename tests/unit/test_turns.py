"""Turns: complete in themselves, valid once made, and silent about what they hold."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_tasks.errors import InvalidTurn
from hermes_tasks.metadata import METADATA_KEYS
from hermes_tasks.text import CONTENT_LIMIT, CONTINUED
from hermes_tasks.turns import Conclusion, Turn, from_json

SECRET = "the-password-is-swordfish"
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


def message(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"peer": "igor", "content": content, **more}


EAST, WEST = "T00:30:00+01:00", "T23:30:00-01:00"
"""Times that are of another day in UTC: the first of all days has none before it."""


class OtherLibrary(datetime):
    """A time of a library with differences of its own, such as Pendulum."""

    def __sub__(self, other: Any) -> Any:
        return object()


def times(turn: Turn) -> list[datetime]:
    return [datetime.fromisoformat(m.created_at) for m in turn.messages]


@given(
    st.text(min_size=1),
    st.lists(st.tuples(st.text(min_size=1), ANY_TEXT), max_size=4),
    st.dictionaries(st.text(min_size=1), st.booleans(), max_size=2),
    st.booleans(),
)
def test_a_turn_survives_the_way_through_json(
    session: str, said: list[tuple[str, str]], peers: dict[str, bool], ask: bool
) -> None:
    turn = Turn.create(
        "w",
        session,
        [
            message(),
            *(message(content, peer=peer, metadata={"k": content}) for peer, content in said),
        ],
        peers={peer: {"observe_me": flag} for peer, flag in peers.items()},
        ask=ask,
    )
    data = turn.to_json()
    assert Turn.from_json(json.loads(json.dumps(data))) == turn
    assert Turn.from_json(json.loads(json.dumps(data, ensure_ascii=False).encode())) == turn
    assert turn.to_text() == json.dumps(data, separators=(",", ":"))


class Key(StrEnum):
    """Keys of a gateway that names its sessions so."""

    SESSION = "s"
    TURN = "t"

    def __format__(self, spec: str) -> str:
        return "Key." + self.name


def test_a_key_is_what_it_says_whatever_it_is_called() -> None:
    turn = Turn.create("w", Key.SESSION, [message(peer=Key.SESSION)], turn_id=Key.TURN)
    assert json.loads(turn.to_text()) == turn.to_json()
    assert (turn.session, turn.turn_id, turn.session_key) == ("s", "t", "default:w:s")


def test_the_json_form_says_only_what_there_is_to_say() -> None:
    turn = Turn.create(
        "w", "s", [message(created_at="2026-01-31T12:00:00+00:00")], turn_id="source:1"
    )
    assert turn.to_json() == {
        "v": 1,
        "turn_id": "source:1",
        "backend": "default",
        "workspace": "w",
        "session": "s",
        "messages": [
            {"peer": "igor", "content": "hi", "created_at": "2026-01-31T12:00:00.000000+00:00"}
        ],
    }
    assert turn.session_key == "default:w:s"


def test_two_turns_get_two_ids() -> None:
    one, two = (Turn.create("w", "s", [message()]) for _ in range(2))
    assert one.turn_id != two.turn_id


def test_blank_messages_are_left_out_and_a_turn_of_them_alone_is_refused() -> None:
    turn = Turn.create("w", "s", [message(" \n"), message("hi"), message("")])
    assert [m.content for m in turn.messages] == ["hi"]
    for nothing in ([], [message("\t")]):
        with pytest.raises(InvalidTurn, match="nothing to remember"):
            Turn.create("w", "s", nothing)


def test_long_messages_become_parts_with_times_of_their_own() -> None:
    turn = Turn.create(
        "w", "s", [message("x" * 60_000, created_at="2026-01-31T12:00:00Z", metadata={"a": 1})]
    )
    assert turn.size == 3
    assert turn.characters == 60_000 + 2 * len(CONTINUED)
    assert all(len(m.content) <= CONTENT_LIMIT and m.metadata == {"a": 1} for m in turn.messages)
    assert times(turn) == sorted(set(times(turn)))


def test_missing_times_are_now_and_strictly_increasing() -> None:
    before = datetime.now(UTC)
    turn = Turn.create("w", "s", [message() for _ in range(50)])
    assert times(turn) == sorted(set(times(turn)))
    assert before <= times(turn)[0] <= datetime.now(UTC)


def test_a_missing_time_comes_after_a_given_one_in_the_future() -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    turn = Turn.create("w", "s", [message(created_at=soon), message()])
    assert times(turn) == [soon, soon + timedelta(microseconds=1)]


@pytest.mark.parametrize(
    "given_time",
    [
        "2026-01-31T13:00:00+01:00",
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00",
        datetime(2026, 1, 31, 12),  # noqa: DTZ001 - naive on purpose: UTC as on the server
        datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))),
        OtherLibrary(2026, 1, 31, 12, tzinfo=UTC),
        1_769_860_800,
        1_769_860_800.0,
    ],
)
def test_times_are_stored_in_utc_however_they_are_given(given_time: object) -> None:
    turn = Turn.create("w", "s", [message(created_at=given_time)])
    assert turn.messages[0].created_at == "2026-01-31T12:00:00.000000+00:00"


@pytest.mark.parametrize("year", ["0001", "0999", "1969", "1970", "9999"])
def test_a_time_of_any_year_is_stored_as_it_was_given(year: str) -> None:
    turn = Turn.create("w", "s", [message(created_at=f"{year}-03-01T04:05:06.000007Z")])
    assert turn.messages[0].created_at == f"{year}-03-01T04:05:06.000007+00:00"


def test_what_a_filter_says_of_a_message_is_left_as_it_is() -> None:
    cause = OSError("no rules")

    def scrub(text: str) -> str:
        raise InvalidTurn("my filter refuses it") from cause

    with pytest.raises(InvalidTurn, match=r"^my filter refuses it$") as raised:
        Turn.create("w", "s", [message()], scrub=scrub)
    assert raised.value.__cause__ is cause


def test_the_last_moment_of_time_can_be_split_too() -> None:
    turn = Turn.create(
        "w", "s", [message("x" * 30_000, created_at=datetime.max.replace(tzinfo=UTC))]
    )
    assert turn.size == 2


def test_ids_are_made_valid() -> None:
    turn = Turn.create(
        "my workspace",
        "telegram:" + "4" * 5000,
        [message(peer="ig\u00f3r")],
        peers={"ig\u00f3r": {"observe_me": False}},
    )
    assert turn.session_key.isascii()
    assert len(turn.session) == 100
    assert turn.peers == {turn.messages[0].peer: {"observe_me": False}}


def test_metadata_is_cleaned_and_copied() -> None:
    original = {"a\0": ["x\ud83d", {"b": (1, 2.5, None, True)}]}
    turn = Turn.create("w", "s", [message(metadata=original)])
    assert turn.messages[0].metadata == {"a\u2400": ["x\ufffd", {"b": [1, 2.5, None, True]}]}
    json.dumps(turn.to_json(), ensure_ascii=False).encode()


def nested(depth: int) -> dict[str, Any]:
    return {"k": nested(depth - 1)} if depth > 1 else {"k": SECRET}


def test_metadata_may_be_as_deep_and_wide_as_honcho_takes() -> None:
    Turn.create("w", "s", [message(metadata=nested(5))])
    Turn.create("w", "s", [message(metadata={str(i): i for i in range(METADATA_KEYS)})])


ENDLESS: list[Any] = [SECRET]
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("workspace", {"workspace": ""}),
        ("session", {"session": ""}),
        ("turn_id", {"turn_id": "*"}),
        ("turn_id", {"turn_id": ""}),
        ("backend", {"backend": "a:b"}),
        ("messages", {"messages": SECRET}),
        ("messages", {"messages": message(SECRET)}),
        ("messages", {"messages": None}),
        (r"messages\[1\]", {"messages": [message(SECRET), SECRET]}),
        (r"messages\[0\].peer", {"messages": [{"content": SECRET}]}),
        (r"messages\[0\].content", {"messages": [{"peer": "igor"}]}),
        (r"messages\[0\].content", {"messages": [message([SECRET])]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=SECRET)]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=1e300)]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=float("nan"))]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=True)]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=f"0001-01-01{EAST}")]}),
        (r"messages\[0\].created_at", {"messages": [message(created_at=f"9999-12-31{WEST}")]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata=SECRET)]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata=nested(6))]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata={"a": ENDLESS})]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata={"a": float("inf")})]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata={1: SECRET})]}),
        (r"messages\[0\].metadata", {"messages": [message(metadata={"a": {SECRET}})]}),
        (
            r"messages\[0\].metadata",
            {"messages": [message(metadata={str(i): SECRET for i in range(98)})]},
        ),
        ("peers", {"peers": {"igor": {SECRET: True}}}),
        ("peers", {"peers": {"igor": {"observe_me": SECRET}}}),
        ("peers", {"peers": [SECRET]}),
        ("peer", {"peers": {"": {"observe_me": True}}}),
    ],
)
def test_what_cannot_be_remembered_is_refused_by_field_without_its_content(
    field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTurn, match=f"^{field} ") as caught:
        Turn.create(**{"workspace": "w", "session": "s", "messages": [message()], **arguments})
    shown = "".join(traceback.format_exception_only(caught.value))
    assert SECRET not in shown
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def good() -> dict[str, Any]:
    return Turn.create("w", "s", [message(SECRET)]).to_json()


@pytest.mark.parametrize(
    "data",
    [
        None,
        SECRET,
        [],
        {},
        {**good(), "v": 0},
        {**good(), "v": SECRET},
        {**good(), "turn_id": "*"},
        {**good(), "turn_id": None},
        {**good(), "session": "a/b"},
        {**good(), "workspace": "../x"},
        {**good(), "backend": "a:b"},
        {**good(), "messages": []},
        {**good(), "peers": [SECRET]},
        {**good(), "peers": {"a b": {"observe_me": True}}},
        {**good(), "messages": [SECRET]},
        {**good(), "messages": None},
        {**good(), "messages": [{"peer": "igor"}]},
        {**good(), "messages": [{"peer": "a b", "content": SECRET, "created_at": "x"}]},
        {**good(), "messages": [{"peer": "igor", "content": [SECRET], "created_at": "x"}]},
        {key: value for key, value in good().items() if key != "session"},
    ],
)
def test_json_that_is_no_turn_is_refused_without_its_content(data: Any) -> None:
    with pytest.raises(InvalidTurn, match=r"^not a turn: ") as caught:
        Turn.from_json(data)
    assert SECRET not in "".join(traceback.format_exception(caught.value)).split("InvalidTurn")[-1]


def test_a_newer_format_says_to_update_the_worker() -> None:
    with pytest.raises(InvalidTurn, match="update the worker"):
        Turn.from_json({**good(), "v": 2})


def test_nothing_shown_of_a_turn_quotes_it() -> None:
    turn = Turn.create("w", "s", [message(SECRET, metadata={"k": SECRET})])
    assert SECRET not in repr(turn) + str(turn) + repr(turn.messages) + turn.describe()
    assert turn.describe() == f"session=default:w:s, messages=1, characters={len(SECRET)}"


# -- conclusions --------------------------------------------------------------------------------


def conclusion(**more: Any) -> Conclusion:
    given = {"workspace": "w", "session": "s", "observer": "hermes", "observed": "igor"}
    return Conclusion.create(**{**given, "content": SECRET, **more})


@given(st.text(min_size=1), st.text(min_size=1), ANY_TEXT, st.booleans())
def test_a_conclusion_survives_the_way_through_json(
    session: str, observed: str, content: str, ask: bool
) -> None:
    made = conclusion(session=session, observed=observed, content=f"x{content}", ask=ask)
    assert from_json(json.loads(json.dumps(made.to_json()))) == made
    assert from_json(json.loads(json.dumps(made.to_json(), ensure_ascii=False).encode())) == made


def test_the_kind_tells_a_conclusion_from_a_turn() -> None:
    assert conclusion(turn_id="source:1").to_json() == {
        "v": 1,
        "kind": "conclusion",
        "turn_id": "source:1",
        "backend": "default",
        "workspace": "w",
        "session": "s",
        "observer": "hermes",
        "observed": "igor",
        "content": SECRET,
    }
    assert isinstance(from_json(good()), Turn)
    assert isinstance(from_json(good_conclusion()), Conclusion)
    assert conclusion().session_key == Turn.create("w", "s", [message()]).session_key
    with pytest.raises(InvalidTurn, match=r"^not a turn: "):
        Turn.from_json(good_conclusion())
    with pytest.raises(InvalidTurn, match="update the worker"):
        from_json({**good_conclusion(), "kind": SECRET})
    with pytest.raises(InvalidTurn, match="update the worker"):
        from_json({**good_conclusion(), "v": 2})


def test_a_conclusion_is_cleaned_as_a_message_is_and_counts_as_one() -> None:
    made = conclusion(content="a\0 <|endoftext|>", session="telegram:42")
    assert made.content == "a\u2400 <|\u200dendoftext|>"
    assert made.session == "telegram-42-65d845547d"
    assert (made.size, made.characters) == (1, len(made.content))
    assert conclusion(content="x" * CONTENT_LIMIT).characters == CONTENT_LIMIT


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("workspace", {"workspace": ""}),
        ("session", {"session": ""}),
        ("observer", {"observer": None}),
        ("observed", {"observed": ""}),
        ("turn_id", {"turn_id": "*"}),
        ("backend", {"backend": "a:b"}),
        ("content", {"content": [SECRET]}),
        ("content", {"content": " \n"}),
        ("content", {"content": SECRET * 2000}),
    ],
)
def test_what_cannot_be_concluded_is_refused_by_field_without_its_content(
    field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTurn, match=f"^{field} ") as caught:
        conclusion(**arguments)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def good_conclusion() -> dict[str, Any]:
    return conclusion().to_json()


@pytest.mark.parametrize(
    "data",
    [
        {**good_conclusion(), "turn_id": "*"},
        {**good_conclusion(), "session": "a/b"},
        {**good_conclusion(), "observer": "a b"},
        {**good_conclusion(), "observed": None},
        {**good_conclusion(), "content": ""},
        {**good_conclusion(), "content": [SECRET]},
        {key: value for key, value in good_conclusion().items() if key != "content"},
    ],
)
def test_json_that_is_no_conclusion_is_refused_without_its_content(data: Any) -> None:
    with pytest.raises(InvalidTurn, match=r"^not a conclusion: ") as caught:
        from_json(data)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def test_nothing_shown_of_a_conclusion_quotes_it() -> None:
    made = conclusion()
    assert SECRET not in repr(made) + str(made)
    assert made.describe() == f"session=default:w:s, conclusion, characters={len(SECRET)}"
