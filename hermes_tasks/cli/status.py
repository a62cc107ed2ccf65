"""``hermes-tasks status``: what the gates of a deployment let through, and why not more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from hermes_tasks.gate import GateStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def status(as_json: bool) -> None:
    """Show the gate before each Honcho workspace: whether calls are made, and how long they may be.

    \b
    Exit status:
      0  calls are made to every workspace
      1  a breaker is open, or Honcho has asked for a pause
      3  Redis does not answer, or refuses us
    """
    from rich.console import Console

    found = read_status(Settings.load())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    elif not found:
        click.echo("No worker has called Honcho yet.")
    else:
        console = Console()
        for one in found:
            console.print(table_of(one))
    if any(one.state != "closed" or one.pause_until for one in found):
        click.get_current_context().exit(group.INCOMPLETE)


def read_status(settings: Settings) -> list[GateStatus]:
    """Every gate of a deployment, as it is now.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us.
    """
    from hermes_tasks.app import make_app
    from hermes_tasks.gate import Policy, known_gates
    from hermes_tasks.gateway.link import FAILURES, Link

    link = Link(make_app(settings, set_as_current=False), settings.safe_broker_url)
    try:
        store = link.channel().sessions
        return [gate.status() for gate in known_gates(store, Policy.from_settings(settings))]
    except FAILURES as error:
        raise link.broken(error) from error
    finally:
        link.close()


def table_of(status: GateStatus) -> Table:
    """One gate for a person."""
    from rich.table import Table

    table = Table(title=f"Gate of {status.name}", title_justify="left", show_header=False)
    for name, value in _lines(status):
        table.add_row(name, value)
    return table


def _lines(status: GateStatus) -> Iterator[tuple[str, str]]:
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
