"""The provider in the host: who it is, what it writes, and what it leaves to the bundled one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.memory_provider import MemoryProvider
from plugins.memory import discover_memory_providers, load_memory_provider

from hermes_tasks import Closed
from hermes_tasks.hermes.provider import HonchoTasksProvider
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until
from tests.integration.hermes.conftest import configure
from tests.integration.hermes.host import Host

Begin = Callable[..., Host]

RECALLED = "<memory-context>igor likes tea</memory-context>"


def recalled(host: Host, tool: str, **arguments: str) -> str:
    """What a tool answers once the bundled provider has begun."""
    answer: dict[str, str] = wait_until(
        lambda: said if "result" in (said := host.call(tool, **arguments)) else None, 10, tool
    )
    return answer["result"]


def test_the_host_discovers_it(home: Path) -> None:
    found = {name: available for name, _, available in discover_memory_providers()}
    assert found["honcho_tasks"] is True
    # An address that is none makes it unavailable, and says so.
    configure(home, baseUrl="true")
    provider = load_memory_provider("honcho_tasks")
    assert not provider.is_available()
    assert "baseUrl" in provider.get_status_config({})["problem"]


def test_every_hook_of_the_host_is_forwarded() -> None:
    # A hook that is inherited would do nothing, where the bundled provider may do something.
    hooks = {name for name in vars(MemoryProvider) if not name.startswith("_")}
    assert hooks <= set(vars(HonchoTasksProvider))


def test_a_conversation_is_remembered_and_can_be_recalled(
    begin: Begin, honcho: HonchoServer
) -> None:
    # Given a session of a platform's user,
    host = begin(gateway_session_key="telegram:42", user_id="7")
    # if the host hands over turns as it does, from its own thread,
    host.manager.sync_all(f"{RECALLED}I parked on level 3", "Noted.", session_id="s1")
    host.manager.sync_all(RECALLED, "", session_id="s1")
    host.manager.flush_pending(5)
    # I expect a search to find what was just said, and Honcho to have it where the host looks
    assert "level 3" in recalled(host, "honcho_search", query="level")
    log = honcho.log(workspace=host.workspace)
    assert [(m["session"], m["peer"], m["content"]) for m in log] == [
        ("telegram-42", "7", "I parked on level 3"),
        ("telegram-42", "hermes", "Noted."),
    ]
    assert "level 3" in recalled(host, "honcho_context")
    assert "level 3" in recalled(host, "honcho_reasoning", query="level")
    # and the rest of the host's questions to be answered as the bundled provider does
    assert host.manager.get_all_tool_names() == {
        schema["name"] for schema in load_memory_provider("honcho").get_tool_schemas()
    }
    assert "Honcho Memory" in host.manager.build_system_prompt()
    host.manager.on_turn_start(2, "hi")
    assert host.provider.bundled._turn_count == 2
    # down to what is recalled for the next turn
    host.call("honcho_profile", card=["drives a red car"])
    host.manager.queue_prefetch_all("Where is it?")
    wait_until(lambda: "red car" in host.manager.prefetch_all("Where is it?"), 10, "recall")


def test_facts_become_conclusions_in_their_place(begin: Begin, honcho: HonchoServer) -> None:
    before = honcho.stats()["messages"]
    host = begin()
    host.say(1)
    host.manager.on_memory_write("add", "user", "likes tea")
    host.manager.on_memory_write("add", "memory", "a note of the assistant's own")
    host.manager.on_memory_write("remove", "user", "likes tea")
    host.call("honcho_conclude", conclusion="is terse", peer="ai")
    host.say(2)
    wait_until(lambda: "conclusions" in host.call("honcho_conclude", list=True), 10, "recall")

    assert [
        (c["after"], c["session"], c["observer"], c["observed"], c["content"])
        for c in honcho.conclusions(workspace=host.workspace)
    ] == [
        (2 + before, "s1", "hermes", "igor", "likes tea"),
        (2 + before, "s1", "hermes", "hermes", "is terse"),
    ]
    # One of them can be taken back
    (one,) = host.call("honcho_conclude", list=True)["conclusions"]
    assert "deleted" in host.call("honcho_conclude", delete_id=one["id"])["result"]
    assert host.call("honcho_conclude", list=True)["conclusions"] == []
    # A conclusion that cannot be one says why
    assert "25000" in host.call("honcho_conclude", conclusion="x" * 25_001)["error"]
    assert host.call("honcho_conclude", conclusion="a", list=True)["error"]


@pytest.mark.parametrize(
    ("context", "config"),
    [
        ({"agent_context": "subagent"}, {}),
        ({"agent_context": "cron", "platform": "cron"}, {}),
        ({}, {"saveMessages": False}),
    ],
    ids=["a subagent", "cron", "saveMessages: false"],
)
def test_who_may_not_write_writes_nothing(
    begin: Begin,
    honcho: HonchoServer,
    home: Path,
    context: dict[str, str],
    config: dict[str, bool],
) -> None:
    (home / "memories").mkdir()
    (home / "memories" / "USER.md").write_text("igor likes tea")
    host = begin(config=config | {"sessionStrategy": "per-directory"}, **context)
    host.say(1)
    host.manager.on_memory_write("add", "user", "likes tea")
    assert "nothing is written" in host.call("honcho_conclude", conclusion="likes tea")["error"]
    assert "nothing is written" in host.call("honcho_profile", card=["likes tea"])["error"]
    assert "nothing is written" in host.call("honcho_conclude", delete_id="1")["error"]
    host.call("honcho_search", query="tea")
    assert host.leave() < 2
    assert host.stored() == []
    assert honcho.conclusions(workspace=host.workspace) == []


def test_a_tool_that_reads_waits_for_what_was_just_said_but_not_for_ever(
    begin: Begin, honcho: HonchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_TASKS_FLUSH_TIMEOUT", "0.4")
    host = begin()
    recalled(host, "honcho_search", query="u1")
    honcho.control(fail=503, times=-1)
    host.say(1)
    begun = time.monotonic()
    answer = host.call("honcho_search", query="u1")
    assert time.monotonic() - begun < 1.5
    assert answer["retryable"]
    assert answer["retry_after"] >= 1
    assert "u1" not in answer["error"]
    # If it tries again as it was told, the answer is there
    honcho.control(reset=True)
    assert "u1" in recalled(host, "honcho_search", query="u1")


def test_compression_and_resuming_keep_their_sessions(begin: Begin) -> None:
    host = begin("s1")
    # The conversation goes on under a new id of the host's
    host.manager.on_session_switch("s1b", parent_session_id="s1", reason="compression")
    host.session = "s1b"
    host.say(1)
    # Another one is resumed
    host.manager.on_session_switch("s0", parent_session_id="s1b", reason="resume")
    host.session = "s0"
    host.say(2)
    wait_until(lambda: len(host.stored()) == 4, 10, "turns to be stored")
    assert host.stored("s1") == ["u1", "a1"]
    assert host.stored("s0") == ["u2", "a2"]


def test_sessions_share_one_gateway_and_the_last_closes_it(begin: Begin) -> None:
    first, second = begin("s1"), begin("s2")
    assert first.provider._sync is second.provider._sync
    first.leave()
    with pytest.raises(Closed):
        first.say(1)
    second.say(2)
    second.wait_until_stored(2)
    second.leave()
    assert "hermes-tasks-publisher" not in {thread.name for thread in threading.enumerate()}


def test_no_text_and_no_key_is_logged_or_sent_where_it_does_not_belong(
    begin: Begin, caplog: pytest.LogCaptureFixture, home: Path, deployment: object
) -> None:
    caplog.set_level(logging.DEBUG, "hermes_tasks")
    host = begin(config={"apiKey": "a-key-of-the-gateway"})
    host.provider.sync_turn("my secret", "kept", session_id="s1")
    host.manager.on_memory_write("add", "user", "my secret")
    host.manager.on_memory_write("add", "user", "my secret" * 5_000)
    host.leave()
    ours = [record for record in caplog.records if record.name.startswith("hermes_tasks")]
    assert not any("secret" in record.getMessage() for record in ours)
    outbox = Path(os.environ["XDG_STATE_HOME"]) / "hermes-tasks" / "outbox"
    for file in outbox.rglob("*"):
        assert b"a-key-of-the-gateway" not in file.read_bytes()


# A Hermes process that is killed with turns on their way to Redis.
KILLED = """
import os, signal
from agent.memory_manager import MemoryManager
from plugins.memory import load_memory_provider
manager, provider = MemoryManager(), load_memory_provider("honcho_tasks")
manager.add_provider(provider)
manager.initialize_all("s1", platform="cli", agent_context="primary")
for number in range(20):
    provider.sync_turn(f"u{number}", f"a{number}", session_id="s1")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_host_had_accepted_is_written_by_the_next(begin: Begin, home: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    host = begin("s2")
    host.wait_until_stored(*range(20))
    assert host.stored("s1") == host.stored()
