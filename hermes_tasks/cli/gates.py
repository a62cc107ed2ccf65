"""``hermes-tasks gate``: what is let through to Honcho, and a hand on it for a maintenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import view_of
from hermes_tasks.cli.output import console, json_option, named_values, print_json, printable
from hermes_tasks.config import Settings
from hermes_tasks.errors import UnknownGate

if TYPE_CHECKING:
    from hermes_tasks.gate import GateStatus

gate_argument = click.argument("gate", metavar="[BACKEND:WORKSPACE]", default="")


@click.group()
def gate() -> None:
    """The gate before each Honcho workspace: look at it, close it for a maintenance, reset it.

    A gate is named `backend:workspace`, as `show` has it. Where there is one only, or
    HERMES_TASKS_BACKEND and HONCHO_WORKSPACE_ID say which, the name may be left out.

    \b
    Exit status:
      0  done; of show: calls are made
      1  of show: a breaker is open, or Honcho has asked for a pause
      2  wrong usage, or there is no such gate
      3  Redis does not answer, or refuses us
    """


@gate.command()
@gate_argument
@json_option
def show(gate: str, as_json: bool) -> None:
    """Show what a gate lets through, and why not more: of all gates if none is named."""
    from hermes_tasks.gate import Policy, known_gates

    settings = Settings.load()
    with view_of(settings) as store:
        known = known_gates(store, Policy.from_settings(settings))
        found = [one.status() for one in known if gate in ("", one.name)]
    if gate and not found:
        raise UnknownGate(_unknown(gate, [one.name for one in known]))
    if as_json:
        print_json(found)
    elif not found:
        click.echo("No worker has called Honcho yet.")
    else:
        out = console()
        for one in found:
            out.print(named_values(f"Gate of {printable(one.name)}", gate_lines(one)))
    if any(one.state != "closed" or one.pause_until for one in found):
        click.get_current_context().exit(group.INCOMPLETE)


def _unknown(name: str, known: Sequence[str]) -> str:
    names = ", ".join(known) or "none yet: no worker has called Honcho"
    return f"there is no gate {name!r}; there are: {names}"


def gate_lines(status: GateStatus) -> Iterator[tuple[str, str]]:
    """What a gate lets through, and why not more."""
    from hermes_tasks.ops.words import clock, count, duration

    since = f", since {clock(status.since, status.now)}" if status.since else ""
    yield "breaker", f"{_STATES[status.state]}{since}"
    if status.denied:
        yield "denied", status.denied
    if status.failures:
        yield "failures in a row", str(status.failures)
    if status.probe_at is not None:
        yield "next probe", f"in {duration(status.probe_at - status.now)}"
    if status.pause_until is not None:
        why = f" ({status.pause_why})" if status.pause_why else ""
        yield "pause", f"Honcho asked for {duration(status.pause_until - status.now)} more{why}"
    limit = f" of at most {status.limit:.0f}" if status.limit is not None else ""
    yield "calls in flight", f"{status.calls}{limit}"
    yield "sessions held", f"{status.held:,}, and {status.permits} let go"
    yield "rate", f"{status.rate:g} calls a second" if status.rate else "no limit"
    for one in status.classes:
        p95 = f"p95 {one.p95:.2f} s of {one.samples} calls" if one.p95 is not None else "no calls"
        raised = f"; after a time-out, {count(one.raised, 'fast call')} to go" if one.raised else ""
        yield f"deadline, to {one.most} messages", f"{one.deadline:.1f} s ({p95}{raised})"
    yield "since the start", ", ".join(f"{count} {name}" for name, count in status.counters.items())


_STATES = {
    "closed": "closed: calls are made",
    "open": "open: no calls are made",
    "probing": "half-open: one call looks whether Honcho is back",
}
