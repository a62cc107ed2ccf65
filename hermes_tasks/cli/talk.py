"""Somebody who talks: the gateway of ``hermes-tasks up --demo``."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from importlib import resources
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from hermes_tasks.turns import Turn

TURNS_A_SECOND = 5.0
"""How much all of them say together, on average: as people do, in no rhythm."""

CIRCLES = 4
"""How many groups of people have the bundled conversation, each in sessions of its own."""

_CLOSE_SECONDS = 2.0


class Talk:
    """A gateway in a thread that says the bundled conversation over and over until it is left.

    Args:
        settings: of the deployment; its outbox is a directory that ends with the talk.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="talk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2 * _CLOSE_SECONDS)

    def _talk(self) -> None:
        from hermes_tasks import TurnSync

        with tempfile.TemporaryDirectory(prefix="hermes-tasks-talk-") as outbox:
            sync = TurnSync(settings=self._settings, outbox_dir=Path(outbox))
            try:
                for session, turn in self._said():
                    if self._over.wait(random.expovariate(TURNS_A_SECOND)):
                        break
                    sync.sync_turn(
                        session=session,
                        # As if said now: they have neither the time nor the id of the file's.
                        messages=[
                            {"peer": message.peer, "content": message.content}
                            for message in turn.messages
                        ],
                    )
            finally:
                sync.close(_CLOSE_SECONDS)

    def _said(self) -> Iterator[tuple[str, Turn]]:
        """What is said, without end, and in which session."""
        from hermes_tasks.replay import open_source
        from hermes_tasks.replay.sources import Target

        target = Target(self._settings.honcho_workspace_id, self._settings.backend)
        with resources.as_file(resources.files("hermes_tasks.cli") / "demo.jsonl") as conversation:
            turns = list(open_source(conversation, target).turns())
        for turn in cycle(turns):
            for circle in range(1, CIRCLES + 1):
                yield f"{turn.session}-{circle}", turn
