"""Existing conversations through a real broker, a real worker and the Honcho stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hermes_state import SessionDB

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import SourceError, StillSyncing
from hermes_tasks.replay import Replay, Summary, open_source
from hermes_tasks.replay.sources import Target
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.workers import WorkerProcess

# What a replay needs of the server is what every gateway does, which both are tried with.
pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

QUICK = ("--pool", "threads", "--concurrency", "8", "--without-mingle", "--without-gossip")


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def running(worker: Callable[..., WorkerProcess], honcho: HonchoServer) -> WorkerProcess:
    """A worker that writes to ``honcho``."""
    return worker(*QUICK, env={"HONCHO_URL": honcho.url})


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionDB]:
    """A state.db as the host itself writes it, still open."""
    monkeypatch.setenv("HERMES_HOME", str(tmp_path / "hermes"))
    database = SessionDB(tmp_path / "state.db")
    yield database
    database.close()


def replay(path: Path, settings: Settings, timeout: float = 60.0) -> Summary:
    app = make_app(settings, set_as_current=False)
    return Replay(app, settings, timeout=timeout).run(open_source(path, Target("w")))


def said(honcho: HonchoServer, session: str | None = None) -> list[str]:
    return [entry["content"] for entry in honcho.log(session)]


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


def conversation(sessions: int, lines: int) -> list[Any]:
    return [
        {"session": f"s{s}", "peer": ("igor", "hermes")[n % 2], "content": f"s{s} line {n}"}
        for n in range(lines)
        for s in range(sessions)
    ]


@pytest.mark.usefixtures("running")
def test_what_was_said_in_hermes_arrives_in_order_and_nothing_else_does(
    database: SessionDB, honcho: HonchoServer, settings: Settings
) -> None:
    # Given a state.db with everything that a host puts into one
    database.create_session("talk", source="cli", user_id="igor")
    database.append_message("talk", "system", "You are Hermes.")
    database.append_message("talk", "user", "What is in the cellar?", timestamp=1_700_000_000.25)
    database.append_message(
        "talk",
        "assistant",
        "I'll look.",
        tool_calls=[{"id": "1", "function": {"name": "ls", "arguments": "{}"}}],
        timestamp=1_700_000_001,
    )
    database.append_message("talk", "tool", "wine, potatoes", tool_name="ls", tool_call_id="1")
    database.append_message("talk", "assistant", "", timestamp=1_700_000_002)
    database.append_message("talk", "assistant", "Wine and potatoes.", timestamp=1_700_000_003)
    database.append_message(
        "talk",
        "user",
        [{"type": "text", "text": "And here?"}, {"type": "image_url", "image_url": {"url": "x"}}],
    )
    recalled = "<memory-context>igor has a cellar</memory-context>"
    database.append_message("talk", "assistant", f"{recalled}Shelves.")
    taken_back = database.append_message("talk", "user", "Never mind this.")
    database.append_message("talk", "assistant", "Fine.")
    database.rewind_to_message("talk", taken_back)

    database.create_session("long", source="telegram")
    database.append_message("long", "user", "Told long ago.")
    database.append_message("long", "assistant", "Answered long ago.")
    database.archive_and_compact("long", [{"role": "user", "content": "Summary: of old."}])
    database.append_message("long", "assistant", "New since then.")

    # When it is replayed, while the host has it open
    summary = replay(database.db_path, settings)

    # I expect what the user and the assistant said, and still stand by, in its order
    talk = honcho.log("talk")
    assert [(entry["peer"], entry["content"]) for entry in talk] == [
        ("igor", "What is in the cellar?"),
        ("hermes", "I'll look."),
        ("hermes", "Wine and potatoes."),
        ("igor", "And here?"),
        ("hermes", "Shelves."),
    ]
    assert talk[0]["created_at"].startswith("2023-11-14T22:13:20.25")
    assert said(honcho, "long") == ["Summary: of old.", "New since then."]
    assert (summary.sessions, summary.turns, summary.messages) == (2, 3, 7)
    assert summary.written == 3
    assert summary.left_out == 7
    assert not summary.given_up

    # And nothing more when a copy of it is replayed
    copy = database.db_path.with_name("copy.db")
    database._conn.execute("VACUUM INTO ?", (str(copy),))
    assert replay(copy, settings).written == 3
    assert len(honcho.log()) == 7


@pytest.mark.usefixtures("running")
def test_an_answer_that_came_after_the_first_replay_is_added_to_its_question(
    database: SessionDB, honcho: HonchoServer, settings: Settings
) -> None:
    database.create_session("s", source="cli")
    for role, text in [("user", "one"), ("assistant", "1"), ("user", "two")]:
        database.append_message("s", role, text)
    replay(database.db_path, settings)

    database.append_message("s", "assistant", "2")
    replay(database.db_path, settings)

    assert said(honcho) == ["one", "1", "two", "2"]


@pytest.mark.usefixtures("running")
def test_many_sessions_arrive_each_in_order_and_a_second_replay_writes_nothing(
    tmp_path: Path, honcho: HonchoServer, settings: Settings
) -> None:
    path = write_lines(tmp_path / "a.jsonl", conversation(sessions=20, lines=30))

    assert replay(path, settings).written == 600
    for session in range(20):
        assert said(honcho, f"s{session}") == [f"s{session} line {n}" for n in range(30)]

    assert replay(path, settings).written == 600
    assert len(honcho.log()) == 600


def test_a_long_session_never_overflows_its_queue(
    tmp_path: Path,
    worker: Callable[..., WorkerProcess],
    honcho: HonchoServer,
    settings: Settings,
) -> None:
    # Given a queue of four turns, no backlog, and a Honcho that takes its time
    small = Settings(
        broker_url=settings.broker_url, prefix=settings.prefix, queue_limit=4, backlog_limit=0
    )
    honcho.control(latency=0.02)
    limits = {"HERMES_TASKS_QUEUE_LIMIT": "4", "HERMES_TASKS_BACKLOG_LIMIT": "0"}
    worker(*QUICK, env={"HONCHO_URL": honcho.url, **limits})

    summary = replay(write_lines(tmp_path / "a.jsonl", conversation(sessions=2, lines=40)), small)

    assert not summary.given_up
    assert said(honcho, "s0") == [f"s0 line {n}" for n in range(40)]


@pytest.mark.usefixtures("running")
def test_what_stands_before_a_broken_line_is_written_and_the_rest_after_it_is_mended(
    tmp_path: Path, honcho: HonchoServer, settings: Settings
) -> None:
    lines = conversation(sessions=2, lines=4)
    broken = write_lines(tmp_path / "a.jsonl", [*lines[:5], "{oops\n", *lines[6:]])

    with pytest.raises(SourceError, match=r"line 6: not JSON"):
        replay(broken, settings)
    assert len(honcho.log()) == 5

    assert replay(write_lines(tmp_path / "a.jsonl", lines), settings).written == 8
    assert said(honcho, "s0") == [f"s0 line {n}" for n in range(4)]
    assert said(honcho, "s1") == [f"s1 line {n}" for n in range(4)]


@pytest.mark.usefixtures("running")
def test_turns_that_are_given_up_are_counted_with_their_reason_and_not_as_written(
    tmp_path: Path, honcho: HonchoServer, settings: Settings
) -> None:
    honcho.control(fail=422, times=1)
    summary = replay(write_lines(tmp_path / "a.jsonl", conversation(sessions=1, lines=1)), settings)
    assert summary.given_up.total() == 1
    assert summary.written == 0


def test_without_a_worker_a_replay_ends_in_time_and_its_turns_stay_queued(
    tmp_path: Path,
    worker: Callable[..., WorkerProcess],
    honcho: HonchoServer,
    settings: Settings,
) -> None:
    path = write_lines(tmp_path / "a.jsonl", conversation(sessions=1, lines=3))
    with pytest.raises(StillSyncing, match=r"^3 of 3 turns are not written after 0\.2 s"):
        replay(path, settings, timeout=0.2)

    worker(*QUICK, env={"HONCHO_URL": honcho.url})
    assert replay(path, settings).written == 3
    assert said(honcho) == ["s0 line 0", "s0 line 1", "s0 line 2"]


@pytest.mark.usefixtures("running")
def test_a_session_name_of_five_thousand_characters_is_taken(
    tmp_path: Path, honcho: HonchoServer, settings: Settings
) -> None:
    line = {"session": "s" * 5_000, "peer": "igor", "content": "hi"}
    assert replay(write_lines(tmp_path / "a.jsonl", [line]), settings).written == 1
    (entry,) = honcho.log()
    assert len(entry["session"]) == 100
