"""Reading conversations: ids that survive, faults that are named, text that is quoted nowhere."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.errors import SourceError
from hermes_tasks.replay import open_source
from hermes_tasks.replay.sources import Target
from hermes_tasks.turns import Turn

TARGET = Target("w")


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


def line(session: str = "s", peer: str = "igor", content: str = "hi", **more: Any) -> Any:
    return {"session": session, "peer": peer, "content": content, **more}


def read(path: Path) -> list[Turn]:
    return list(open_source(path, TARGET).turns())


def test_every_line_is_a_turn_that_asks_before_it_is_written(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", line(), line(peer="hermes", content="hello"))
    turns = read(path)
    assert [turn.messages[0].content for turn in turns] == ["hi", "hello"]
    assert all(turn.ask and turn.workspace == "w" for turn in turns)


def test_turn_ids_survive_a_move_and_lines_added_behind(tmp_path: Path) -> None:
    first = read(write_lines(tmp_path / "a.jsonl", line(), line(content="b")))
    again = read(write_lines(tmp_path / "b.jsonl", line(), line(content="b"), line(content="c")))
    assert [turn.turn_id for turn in again[:2]] == [turn.turn_id for turn in first]
    assert len({turn.turn_id for turn in again}) == 3


def test_the_same_words_said_twice_are_two_turns(tmp_path: Path) -> None:
    turns = read(write_lines(tmp_path / "a.jsonl", line(), line(), line(session="t")))
    assert len({turn.turn_id for turn in turns}) == 3


def test_created_at_is_kept_to_the_microsecond(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", line(created_at="2026-01-31T13:00:00.000001+01:00"))
    assert read(path)[0].messages[0].created_at == "2026-01-31T12:00:00.000001+00:00"


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("this is secret\n", "not JSON: Expecting value at column 1"),
        ('{"session": "s", "content": "secret"}\n', "has no 'peer'"),
        ('{"session": 7, "peer": "p", "content": "secret"}\n', "'session' is not a string"),
        ('["secret"]\n', "not a JSON object"),
        ('{"session": "s", "peer": "", "content": "secret"}\n', "peer is empty"),
        (
            '{"session": "s", "peer": "p", "content": "secret", "created_at": "soon"}\n',
            "created_at is not a time: give ISO 8601 or seconds",
        ),
        ("[" * 100_000 + "\n", "not JSON that can be read"),
    ],
)
def test_a_broken_line_is_named_after_the_turns_before_it(
    tmp_path: Path, broken: str, what: str
) -> None:
    path = write_lines(tmp_path / "a.jsonl", line(), "\n", broken, line())
    turns = open_source(path, TARGET).turns()
    assert next(turns).session == "s"
    with pytest.raises(SourceError) as caught:
        next(turns)
    assert str(caught.value) == f"{path}, line 3: {what}"
    assert "secret" not in repr(caught.value)


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"session": "s", "peer": "p", "content": "\xff"}\n')
    with pytest.raises(SourceError, match="line 1: not UTF-8 at byte 43"):
        read(path)


def test_a_byte_order_mark_and_crlf_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line()).encode() + b"\r\n")
    assert len(read(path)) == 1


def test_blank_messages_are_left_out_and_counted(tmp_path: Path) -> None:
    source = open_source(write_lines(tmp_path / "a", line(content=" "), line()), TARGET)
    assert len(list(source.turns())) == 1
    assert source.left_out == 1


def test_recalled_memory_is_no_part_of_what_was_said(tmp_path: Path) -> None:
    recalled = "<memory-context>likes tea</memory-context>"
    lines = line(content=f"{recalled}Hello"), line(content=recalled)
    source = open_source(write_lines(tmp_path / "a", *lines), TARGET)
    assert [turn.messages[0].content for turn in source.turns()] == ["Hello"]
    assert source.left_out == 1


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.db"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="No such file"):
        open_source(tmp_path / name, TARGET)


def test_a_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Is a directory"):
        open_source(tmp_path, TARGET)


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_a_state_db_that_is_no_database_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"is not a Hermes state\.db: it is no SQLite database"):
        open_source(path, TARGET)


def test_another_application_s_database_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (id)")
    database.close()
    with pytest.raises(SourceError, match=r"not a Hermes state\.db: it has no table sessions"):
        read(path)


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\x07" * 4096)
    with pytest.raises(SourceError, match=r"cannot be read as a Hermes state\.db"):
        read(path)


def test_a_text_that_is_not_utf8_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE sessions (id, started_at)")
        database.execute("CREATE TABLE messages (id, session_id, role, content, timestamp)")
        database.execute("INSERT INTO sessions VALUES ('s', 1)")
        database.execute(
            "INSERT INTO messages VALUES (1, 's', 'user', CAST(? AS TEXT), 1)", (b"caf\xe9 noir",)
        )
        database.commit()
    (turn,) = read(path)
    assert turn.messages[0].content == "caf\N{REPLACEMENT CHARACTER} noir"


def test_an_older_state_db_without_rewinding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE sessions (id TEXT, started_at REAL);"
            "CREATE TABLE messages (id INTEGER, session_id TEXT, role TEXT, content TEXT,"
            " timestamp REAL);"
            "INSERT INTO sessions VALUES ('s', 1);"
            "INSERT INTO messages VALUES (1, 's', 'user', 'hi', 1.5);"
        )
    database.close()
    (turn,) = read(path)
    assert turn.messages[0].peer == "user"
    assert turn.messages[0].created_at == "1970-01-01T00:00:01.500000+00:00"
