"""``hermes-tasks status``: what became of turns; what the gates let through, and why not more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import sessions_of
from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from hermes_tasks.gate import GateStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def status(as_json: bool) -> None:
    """Show what became of turns, and the gate before each Honcho workspace.

    The gate says whether calls are made, why not, and how long they may be.

    \b
    Exit status:
      0  calls are made to every workspace
      1  a breaker is open, or Honcho has asked for a pause
      3  Redis does not answer, or refuses us
    """
    from rich.console import Console

    counters, found = read_status(Settings.load())
    if as_json:
        gates = [dataclasses.asdict(one) for one in found]
        click.echo(json.dumps({"counters": counters, "gates": gates}, indent=2))
    else:
        console = Console()
        if counters:
            console.print(table_of("Turns", turn_lines(counters)))
        for one in found:
            console.print(table_of(f"Gate of {one.name}", gate_lines(one)))
        if not found:
            click.echo("No worker has called Honcho yet.")
    if any(one.state != "closed" or one.pause_until for one in found):
        click.get_current_context().exit(group.INCOMPLETE)


def read_status(settings: Settings) -> tuple[dict[str, int], list[GateStatus]]:
    """The counters of a deployment, and every gate of it, as they are now.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us.
    """
    from hermes_tasks.gate import Policy, known_gates

    with sessions_of(settings) as store:
        gates = known_gates(store, Policy.from_settings(settings))
        return store.counters(), [gate.status() for gate in gates]


def table_of(title: str, lines: Iterable[tuple[str, str]]) -> Table:
    """Names and values for a person."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in lines:
        table.add_row(name, value)
    return table


def turn_lines(counters: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What became of the turns of a deployment since its Redis was new."""
    for name in ("accepted", "written"):
        yield name, str(counters.get(name, 0))
    given_up = {
        name.removeprefix("dead:"): count
        for name, count in counters.items()
        if name.startswith("dead:")
    }
    yield "given up", _listed(given_up) or "0"
    if counters.get("twice"):
        yield "written twice", str(counters["twice"])
    hooks = {
        said: counters[name]
        for name, said in (
            ("hook_failed", "failed"),
            ("hook_timeout", "took too long"),
            ("hook_dropped", "not made"),
        )
        if counters.get(name)
    }
    if hooks:
        yield "calls of hooks", _listed(hooks)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def gate_lines(status: GateStatus) -> Iterator[tuple[str, str]]:
    """What a gate lets through, and why not more."""
    since = f", since {_clock(status.since)}" if status.since else ""
    yield "breaker", f"{_STATES[status.state]}{since}"
    if status.denied:
        yield "denied", status.denied
    if status.failures:
        yield "failures in a row", str(status.failures)
    if status.probe_at is not None:
        yield "next probe", f"in {max(0.0, status.probe_at - status.now):.0f} s"
    if status.pause_until is not None:
        why = f" ({status.pause_why})" if status.pause_why else ""
        yield "pause", f"Honcho asked for {status.pause_until - status.now:.0f} s more{why}"
    limit = f" of at most {status.limit:.0f}" if status.limit is not None else ""
    yield "calls in flight", f"{status.calls}{limit}"
    yield "sessions held", f"{status.held}, and {status.permits} let go"
    yield "rate", f"{status.rate:g} calls a second" if status.rate else "no limit"
    for one in status.classes:
        p95 = f"p95 {one.p95:.2f} s of {one.samples} calls" if one.p95 is not None else "no calls"
        raised = f", after a time-out: {one.raised} fast calls to go" if one.raised else ""
        yield f"deadline up to {one.most} messages", f"{one.deadline:.1f} s ({p95}{raised})"
    yield "since the start", ", ".join(f"{count} {name}" for name, count in status.counters.items())


_STATES = {
    "closed": "closed: calls are made",
    "open": "open: no calls are made",
    "probing": "half-open: one call looks whether Honcho is back",
}


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
