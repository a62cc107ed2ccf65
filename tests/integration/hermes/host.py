"""Hermes as far as memory is concerned: its MemoryManager, with a provider it has loaded."""

from __future__ import annotations

import json
import time
from typing import Any

from agent.memory_manager import MemoryManager
from plugins.memory import load_memory_provider
from plugins.memory.honcho import client as bundled_client

from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.waiting import wait_until


def forget_client() -> None:
    """The bundled provider has one client for the whole process: the next test needs another."""
    client = bundled_client._honcho_client_slot.peek()
    if client is not None:
        client._http.close()
    bundled_client.reset_honcho_client()


class Host:
    """One session of the host.

    Attributes:
        manager: the host's MemoryManager.
        provider: the provider it has loaded, ours unless told otherwise.
    """

    def __init__(
        self,
        honcho: HonchoServer,
        workspace: str,
        session: str,
        context: dict[str, Any] | None = None,
        *,
        provider: str = "honcho_tasks",
    ) -> None:
        self.honcho = honcho
        self.workspace = workspace
        self.session = session
        self.manager: Any = MemoryManager()
        self.provider: Any = load_memory_provider(provider)
        assert self.provider is not None
        self.manager.add_provider(self.provider)
        given = {"platform": "cli", "agent_context": "primary", **(context or {})}
        self.manager.initialize_all(session, **given)

    def say(self, *numbers: int) -> list[float]:
        """Turns: user and assistant say their number. How long each took, in seconds."""
        took = []
        for number in numbers:
            begun = time.perf_counter()
            self.provider.sync_turn(f"u{number}", f"a{number}", session_id=self.session)
            took.append(time.perf_counter() - begun)
        return took

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What a tool answers."""
        answer: dict[str, Any] = json.loads(self.manager.handle_tool_call(tool, arguments))
        return answer

    def stored(self, session: str | None = None) -> list[str]:
        """What Honcho has of the workspace, or of one of its sessions, in its order."""
        columns = {} if session is None else {"session": session}
        log = self.honcho.log(workspace=self.workspace, **columns)
        return [message["content"] for message in log]

    def wait_until_stored(self, *numbers: int, timeout: float = 20.0) -> None:
        """Wait for turns; I expect them once each, in order, and nothing else."""
        expected = [f"{who}{number}" for number in numbers for who in "ua"]
        wait_until(lambda: len(self.stored()) >= len(expected), timeout, "turns to be stored")
        assert self.stored() == expected

    def leave(self) -> float:
        """End as the host's command line does. How long that took, in seconds."""
        begun = time.monotonic()
        self.manager.flush_pending(timeout=10)
        self.manager.on_session_end([])
        self.manager.shutdown_all()
        return time.monotonic() - begun
