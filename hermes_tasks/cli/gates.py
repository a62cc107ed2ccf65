"""``hermes-tasks gate``: what is let through to Honcho, and a hand on it for a maintenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import sessions_of, view_of
from hermes_tasks.cli.options import SPAN, confirm, yes_option
from hermes_tasks.cli.output import console, json_option, named_values, print_json, printable, quiet
from hermes_tasks.config import Settings
from hermes_tasks.errors import UnknownGate

if TYPE_CHECKING:
    from hermes_tasks.gate import Gate, GateStatus

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
    quiet()


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


@gate.command("open")
@gate_argument
@click.option(
    "--for",
    "span",
    type=SPAN,
    metavar="SPAN",
    help="Close it again after that, such as 30m or 2h.  [default: only by `gate close`]",
)
@click.option("--reason", default="", help="What status and a waiting session say of it.")
@json_option
def open_gate(gate: str, span: float | None, reason: str, as_json: bool) -> None:
    """Open the breaker by hand: no call to Honcho is made, for a planned maintenance.

    Turns are accepted and wait; none is lost, and none counts as failed. Calls that are on their
    way end as they do. When the time is over one call looks whether Honcho is back. Once more
    replaces time and reason.
    """
    with _one(gate) as found:
        found.open(span, reason)
        _say(found, as_json, f"{found.name}: open; no call is made {_until(span)}")


@gate.command("close")
@gate_argument
@json_option
def close_gate(gate: str, as_json: bool) -> None:
    """Close the breaker, whether a hand or failures have opened it: calls are made again.

    Few at once at first. If Honcho still fails, the breaker opens again by itself. A pause that
    Honcho asked for goes on.
    """
    with _one(gate) as found:
        was_open = found.close()
        said = "closed; calls are made" if was_open else "it was closed already"
        _say(found, as_json, f"{found.name}: {said}")


@gate.command()
@gate_argument
@yes_option
@json_option
def reset(gate: str, yes: bool, as_json: bool) -> None:
    """Forget what a gate has learnt: breaker, pause, limit, and how long calls take.

    For a Honcho that has become another one; after an outage `close` is kinder. Sessions that it
    holds go on, and counters stay.
    """
    with _one(gate) as found:
        confirm(f"Forget what the gate of {printable(found.name)} has learnt?", yes)
        found.reset()
        _say(found, as_json, f"{found.name}: as new")


@contextmanager
def _one(name: str) -> Iterator[Gate]:
    """The gate of this name; without one, the only one, or that of the settings.

    Raises:
        UnknownGate: there is none of this name, or there are several and none is named.
    """
    from hermes_tasks import gate as gates

    settings = Settings.load()
    own = f"{settings.backend}:{settings.honcho_workspace_id}"
    with sessions_of(settings) as store:
        policy = gates.Policy.from_settings(settings)
        known = [one.name for one in gates.known_gates(store, policy)]
        # Before its first call there is no gate yet, and a maintenance may begin all the same.
        if name not in ("", own, *known) or (not name and len(known) > 1 and own not in known):
            raise UnknownGate(_unknown(name, known))
        only = known[0] if len(known) == 1 else own
        yield gates.Gate(store, policy, name or only)


def _unknown(name: str, known: Sequence[str]) -> str:
    names = ", ".join(map(printable, known)) or "none yet, as no worker has called Honcho"
    return f"there is no gate {printable(name)}, but: {names}" if name else f"name one of: {names}"


def _until(span: float | None) -> str:
    from hermes_tasks.ops.words import duration

    return "until `hermes-tasks gate close`" if span is None else f"for {duration(span)}"


def _say(gate: Gate, as_json: bool, text: str) -> None:
    if as_json:
        print_json(gate.status())
    else:
        click.echo(printable(text))


def gate_lines(status: GateStatus) -> Iterator[tuple[str, str]]:
    """What a gate lets through, and why not more."""
    from hermes_tasks.ops.words import clock, count, duration

    since = f", since {clock(status.since, status.now)}" if status.since else ""
    yield "breaker", f"{_STATES[status.state]}{since}"
    if status.maintenance is not None:
        until, why = status.maintenance.until, status.maintenance.why
        end = "`gate close`" if until is None else clock(until, status.now)
        yield "stopped by hand", f"until {end}{f': {why}' if why else ''}"
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
