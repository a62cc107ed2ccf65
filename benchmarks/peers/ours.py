"""hermes_tasks: ``TurnSync`` in the sender, session queues, our worker.

Without a stand-in to write to, the writer is one that writes nowhere; with one it is the product's,
with the gate before it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import work
from hermes_tasks import tasks
from hermes_tasks.gateway.sync import TurnSync
from hermes_tasks.guard import GatedLease
from hermes_tasks.honcho.writer import WriteGuard, WriteReport
from hermes_tasks.turns import Turn


class NoopWriter:
    """Does all that a write costs the queue: no HTTP, and no gate, which a call to Honcho asks."""

    def write(self, turns: Sequence[Turn], guard: WriteGuard, *, ask: bool) -> WriteReport:
        assert isinstance(guard, GatedLease)
        lease = guard.lease
        lease.begin()
        lease.check()
        for turn in turns:
            work.record({"session": turn.session, "turn_id": turn.turn_id})
        lease.commit([turn.turn_id for turn in turns], at_end=True)
        return WriteReport(written=len(turns), found=0, dead=())


class RecordingWriter:
    """The product's writer, which says what it has written as every contender's task does."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, turns: Sequence[Turn], guard: WriteGuard, *, ask: bool) -> WriteReport:
        report: WriteReport = self._writer.write(turns, guard, ask=ask)
        for turn in turns:
            work.record({"session": turn.session, "turn_id": turn.turn_id})
        return report


_of_product = tasks.writer_of


@cache
def _writer_of(app: Any) -> Any:
    return RecordingWriter(_of_product(app)) if work.HONCHO else NoopWriter()


tasks.writer_of = _writer_of


@cache
def sync() -> TurnSync:
    """The sender of this process, with an outbox of its own."""
    outbox = Path(tempfile.mkdtemp(prefix="bench-"))
    return TurnSync(os.environ["BENCH_BROKER"], outbox_dir=outbox)


def enqueue(turn: dict[str, Any]) -> None:
    """As a gateway does."""
    messages = [{"peer": m["peer"], "content": m["content"]} for m in turn["messages"]]
    sync().sync_turn(
        workspace=turn["workspace"],
        session=turn["session"],
        messages=messages,
        turn_id=turn["turn_id"],
    )


def join() -> None:
    """Wait until Redis has accepted all."""
    while sync().pending:
        time.sleep(0.001)
