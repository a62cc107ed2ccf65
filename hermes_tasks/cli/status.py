"""``hermes-tasks status``: whether turns are written, what is in the way, and what to do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import view_of
from hermes_tasks.cli.options import SPAN
from hermes_tasks.cli.output import (
    console,
    json_option,
    named_values,
    print_json,
    printable,
    shown,
    table,
)
from hermes_tasks.config import Settings
from hermes_tasks.errors import BrokerUnavailable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from hermes_tasks.gate import GateStatus
    from hermes_tasks.ops.diagnosis import Problem
    from hermes_tasks.ops.history import Sample
    from hermes_tasks.ops.overview import Overview

_WATCH_SECONDS = 2.0
_MOST_WORKERS = 12


@click.command()
@click.option(
    "--watch",
    type=SPAN,
    is_flag=False,
    flag_value=_WATCH_SECONDS,
    metavar="[SECONDS]",
    help=f"Show it again every so often, {_WATCH_SECONDS:g} s by default, until Ctrl-C.",
)
@json_option
def status(watch: float | None, as_json: bool) -> None:
    """Say whether turns are written, what is in the way, and what to do about it.

    Then: what became of turns, how long they wait, the sessions, the workers, and the gate before
    each Honcho workspace (`hermes-tasks gate show` says more of it).

    \b
    Exit status:
      0  well, as far as can be seen
      1  turns are not written: no worker takes them, a breaker is open, or Honcho asked for a
         pause; or gateways lost some in the last hour, as their outboxes were full
      2  wrong usage
      3  Redis does not answer, or refuses us
    """
    settings = Settings.load()
    if watch is None:
        look = Look.at(settings)
        if as_json:
            print_json(look.document())
        else:
            console().print(look.picture())
        if look.is_wrong:
            click.get_current_context().exit(group.INCOMPLETE)
    elif as_json:
        raise click.UsageError("--watch is for people: leave out --json")
    else:
        _watch(lambda: Look.at(settings), max(0.1, watch))


class Look:
    """What one look at a deployment has found."""

    def __init__(
        self, overview: Overview, history: Sequence[Sample], problems: Sequence[Problem]
    ) -> None:
        self.overview = overview
        self.history = history
        self.problems = problems

    @classmethod
    def at(cls, settings: Settings) -> Look:
        """Look at the deployment of these settings.

        Raises:
            BrokerUnavailable: Redis does not answer, or refuses us.
        """
        from hermes_tasks.gate import Policy
        from hermes_tasks.ops.diagnosis import diagnose
        from hermes_tasks.ops.history import read_history
        from hermes_tasks.ops.overview import read_overview

        with view_of(settings) as store:
            overview = read_overview(store, Policy.from_settings(settings))
            history = read_history(store)
        return cls(overview, history, diagnose(overview, history))

    @property
    def is_wrong(self) -> bool:
        """Whether turns are not written, or were lost."""
        return any(problem.severity == "wrong" for problem in self.problems)

    def document(self) -> dict[str, object]:
        """For programs: the overview, field by field, and the problems."""
        return dataclasses.asdict(self.overview) | {"problems": list(self.problems)}

    def picture(self) -> Group:
        """For people."""
        from rich.console import Group

        parts = list(self._parts())
        return Group(*(part for one in parts for part in (one, "")))

    def _parts(self) -> Iterator[RenderableType]:
        yield from _verdict(self.overview, self.problems)
        yield named_values("Turns", turn_lines(self.overview, self.history))
        yield named_values("Sessions", _session_lines(self.overview))
        if self.overview.workers:
            yield _workers(self.overview)
        if self.overview.gates:
            yield _gates(self.overview.gates)
        else:
            yield shown("No worker has called Honcho yet.")


def _watch(look: Callable[[], Look], every: float) -> None:
    """Show it again and again, until Ctrl-C; while Redis is away, say so and go on."""
    from rich.console import Group
    from rich.live import Live

    out = console()
    picture: RenderableType = ""
    # In a pipe there is nothing to be painted over: one picture comes after the other.
    live = Live(console=out, screen=True, auto_refresh=False) if out.is_terminal else None
    try:
        with live or nullcontext():
            while True:
                try:
                    seen = picture = look().picture()
                except BrokerUnavailable as error:
                    seen = Group(shown(error, "bold red"), picture)
                if live is None:
                    out.print(seen)
                else:
                    live.update(seen, refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        # How one leaves it. What was seen last stays on the screen.
        if live is not None:
            out.print(picture)


def _verdict(overview: Overview, problems: Sequence[Problem]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from hermes_tasks.ops.words import clock

    when = clock(overview.now)
    if not problems:
        yield Text.assemble((f"All is well at {when}.", "bold green"))
        return
    yield Text(f"At {when}:", "bold")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for problem in problems:
        is_wrong = problem.severity == "wrong"
        label = Text("WRONG" if is_wrong else "note", "bold red" if is_wrong else "yellow")
        grid.add_row(label, shown(problem.what))
        if problem.do:
            grid.add_row("", shown(f"-> {problem.do}", "bold"))
    yield grid


def turn_lines(overview: Overview, history: Sequence[Sample] = ()) -> Iterator[tuple[str, str]]:
    """What became of the turns of a deployment since its Redis was new, and what is left."""
    per_second = _rates(overview, history)
    yield "accepted", f"{overview.accepted:,}{per_second[0]}"
    yield "written", f"{overview.written:,}{per_second[1]}"
    backlog = f", {overview.backlog:,} of them in a backlog" if overview.backlog else ""
    yield "to be written", f"{overview.unsettled:,}{backlog}"
    yield "given up", _listed(overview.given_up) or "0"
    if overview.dead:
        yield "dead letters", f"{overview.dead:,}"
    if overview.found or overview.duplicates:
        yield "came twice", f"{overview.duplicates:,} at Redis, {overview.found:,} found at Honcho"
    if overview.twice:
        yield "written twice", f"{overview.twice:,}"
    gateways = overview.gateways
    if gateways.rows or gateways.dropped:
        dropped = f", {gateways.dropped:,} dropped" if gateways.dropped else ""
        yield "in gateways", f"{gateways.rows:,} not accepted yet{dropped}"
    hooks = {
        said: overview.counters[name]
        for name, said in (
            ("hook_failed", "failed"),
            ("hook_timeout", "took too long"),
            ("hook_dropped", "not made"),
        )
        if overview.counters.get(name)
    }
    if hooks:
        yield "calls of hooks", _listed(hooks)


def _rates(overview: Overview, history: Sequence[Sample]) -> tuple[str, str]:
    """What came and was written in a second, in the last minute; empty where that is not known."""
    before = next((one for one in history if overview.now - one.at <= 65.0), None)
    if before is None or overview.now - before.at < 5.0:
        return "", ""
    elapsed = overview.now - before.at
    came, went = overview.accepted - before.accepted, overview.written - before.written
    return f"  ({came / elapsed:.1f} in a second)", f"  ({went / elapsed:.1f} in a second)"


def _session_lines(overview: Overview) -> Iterator[tuple[str, str]]:
    from hermes_tasks.ops.words import duration

    yield "waiting or at work", _listed(overview.sessions) or "none"
    if overview.lag is None:
        # After an upgrade a worker has to list what was queued by a version that did not.
        is_unknown = overview.unsettled and any(overview.sessions.values())
        settled = "none: all that was accepted is settled"
        yield "lag", "not known until a worker of this version runs" if is_unknown else settled
        return
    lags = dataclasses.asdict(overview.lag)
    yield "lag", ", ".join(f"{name} {duration(lag)}" for name, lag in lags.items())


def _workers(overview: Overview) -> Table:
    from hermes_tasks.ops.diagnosis import is_silent
    from hermes_tasks.ops.words import duration

    made = table("Workers", "worker", "takes turns", "seen", fold=("worker",))
    for worker in overview.workers[:_MOST_WORKERS]:
        silent = is_silent(worker)
        takes = "silent" if silent else "yes" if worker.consuming else "NO"
        style = "" if takes == "yes" else "bold red"
        made.add_row(shown(worker.name), shown(takes, style), shown(f"{duration(worker.seen)} ago"))
    if len(overview.workers) > _MOST_WORKERS:
        made.add_row(shown(f"and {len(overview.workers) - _MOST_WORKERS} more"), "", "")
    return made


def _gates(gates: Sequence[GateStatus]) -> Table:
    made = table(
        "Gates",
        "gate",
        "breaker",
        "calls",
        "held",
        "deadlines",
        fold=("gate",),
        right=("calls", "held"),
    )
    for gate in gates:
        limit = f" of {gate.limit:.0f}" if gate.limit is not None else ""
        made.add_row(
            shown(gate.name),
            shown(_state(gate), "" if _state(gate) == "closed" else "bold red"),
            shown(f"{gate.calls}{limit}"),
            shown(f"{gate.held:,}"),
            shown(" / ".join(f"{one.deadline:.1f}" for one in gate.classes) + " s"),
        )
    return made


def _state(gate: GateStatus) -> str:
    if gate.maintenance is not None:
        return "by hand"
    if gate.state == "closed":
        return "pause" if gate.pause_until is not None else "closed"
    return "half-open" if gate.state == "probing" else "open"


def _listed(counts: dict[str, int]) -> str:
    shown_counts = (
        f"{number:,} {printable(name)}" for name, number in sorted(counts.items()) if number
    )
    return ", ".join(shown_counts)
