"""What a person sees of a replay: a bar while it runs, a table when it is over."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hermes_tasks.replay.runner import Summary

_STANDSTILL_SECONDS = 10.0


class ReplayProgress:
    """A bar of turns settled among turns sent; says so when nothing moves for a while."""

    def __init__(self) -> None:
        # The bar goes to stderr: stdout has the summary only.
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("writing turns"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("turns", total=None, note="")
        self._settled = -1
        self._moved_at = time.monotonic()
        self._warned = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def update(self, summary: Summary) -> None:
        """Show how far the replay is."""
        now = time.monotonic()
        if summary.settled != self._settled:
            self._settled, self._moved_at, self._warned = summary.settled, now, False
        elif not self._warned and now - self._moved_at > _STANDSTILL_SECONDS:
            self._warned = True
            self._console.print(
                f"no turn was written for {_STANDSTILL_SECONDS:g} s: is a worker running "
                "(celery -A hermes_tasks worker), and is Honcho well?",
                highlight=False,
            )
        self._progress.update(
            self._task,
            completed=summary.settled,
            total=summary.turns,
            note=f"{summary.sessions} sessions",
        )


def print_summary(summary: Summary) -> None:
    """The end of a replay as a table on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    rows: list[tuple[str, int | str]] = [
        ("sessions", summary.sessions),
        ("turns", summary.turns),
        ("messages", summary.messages),
        ("written turns", summary.written),
        ("left out messages", summary.left_out),
        *((f"given up: {reason}", count) for reason, count in sorted(summary.given_up.items())),
        ("seconds", f"{summary.seconds:.1f}"),
    ]
    for name, value in rows:
        table.add_row(name, str(value))
    Console().print(table, highlight=False)
