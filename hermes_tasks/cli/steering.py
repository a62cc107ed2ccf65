"""The commands of ``sessions`` that wait for something or change it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import full_name, policy_here, sessions_here
from hermes_tasks.cli.options import SPAN, confirm, yes_option
from hermes_tasks.cli.output import json_option, print_json, printable

if TYPE_CHECKING:
    from hermes_tasks.gate import GateStatus
    from hermes_tasks.transport import SessionStore

_WAIT_SECONDS = 60.0

session_argument = click.argument("session")


@click.command()
@session_argument
@click.option(
    "--timeout",
    type=SPAN,
    default=_WAIT_SECONDS,
    show_default=True,
    metavar="SPAN",
    help="How long to wait, such as 90, 15m or 2h.",
)
@json_option
def wait(session: str, timeout: float, as_json: bool) -> None:
    """Wait until all turns that the session has accepted by now are written or given up."""
    from hermes_tasks.gateway.obstacle import in_redis, still_syncing
    from hermes_tasks.transport.steering import Steering

    name, begun = full_name(session), time.monotonic()
    with sessions_here() as store:
        waited = Steering(store).wait(name, timeout)
        seconds = time.monotonic() - begun
        error = None
        if not waited.settled:
            obstacle = in_redis(waited.progress, waited.target, lambda: _gate(store, name))
            error = still_syncing(obstacle, seconds)
    if as_json:
        print_json(
            {
                "session": name,
                "settled": waited.settled,
                "seconds": seconds,
                "waiting": 0 if error is None else error.waiting,
                "reason": "" if error is None else error.reason,
                "retry_after": None if error is None else error.retry_after,
            }
        )
        if error is not None:
            click.get_current_context().exit(group.INCOMPLETE)
    elif error is not None:
        raise error
    else:
        click.echo(f"{printable(name)}: all is settled")


@click.command()
@session_argument
@json_option
def wake(session: str, as_json: bool) -> None:
    """Let a sleeping session go on now, instead of when its next attempt is due.

    Not before an earlier call to Honcho can no longer write what it carried: until then a second
    one might write it twice.
    """
    from hermes_tasks.ops.words import duration
    from hermes_tasks.transport.steering import Steering

    name = full_name(session)
    with sessions_here() as store:
        woken = Steering(store).wake(name)
    if as_json:
        print_json(
            {"session": name, "state": woken.state, "wakes_in": woken.wakes_in, "why": woken.why}
        )
    elif woken.why:
        when = (
            "" if woken.wakes_in is None else f"; by itself it wakes in {duration(woken.wakes_in)}"
        )
        click.echo(f"{printable(name)}: stays {woken.state}: {_STAYS[woken.why]}{when}")
    else:
        click.echo(f"{printable(name)}: {_IS[woken.state]}")
    if woken.why or woken.state in ("held", "paused"):
        click.get_current_context().exit(group.INCOMPLETE)


_STAYS = {
    "doubt": "an earlier call to Honcho may still write its turns",
    "delayed": "its next turn was sent to be written later",
}

_IS = {
    "ready": "ready: a worker takes it as soon as one is free",
    "leased": "a worker has it already",
    "idle": "it has nothing to be written",
    "sleeping": "it sleeps",
    "held": "it is held at the gate: `hermes-tasks gate show` says why",
    "paused": "it is paused: `sessions resume` lets it go on",
}


@click.command()
@session_argument
@json_option
def pause(session: str, as_json: bool) -> None:
    """Write no more turns of a session until `resume`; they are accepted and wait.

    What a worker is writing ends first. Queue and backlog keep their bounds: a session that is
    paused for long while much is said loses its oldest turns to the dead letters. One that nobody
    has heard of can be paused as well.
    """
    from hermes_tasks.transport.steering import Steering

    name = full_name(session)
    with sessions_here() as store:
        state = Steering(store).pause(name)
        is_known = store.progress(name).accepted > 0
    said = "paused" if state == "paused" else f"paused once it is not {state}"
    # A slip in the name would go unnoticed, and its turns be written on.
    hint = "" if is_known else "; Redis knows no turn of it: is that its name?"
    _say(name, state, as_json, f"{said}{hint}")


@click.command()
@session_argument
@json_option
def resume(session: str, as_json: bool) -> None:
    """Let a paused session go on."""
    from hermes_tasks.transport.steering import Steering

    name = full_name(session)
    with sessions_here() as store:
        state = Steering(store).resume(name)
    _say(name, state, as_json, "it was not paused" if state is None else f"it is {state}")


@click.command()
@session_argument
@click.option("--reason", default="", help="What the dead letters say of it.")
@yes_option
@json_option
def drop(session: str, reason: str, yes: bool, as_json: bool) -> None:
    """Give up all turns of a session that wait: they become dead letters.

    What a worker is writing stays. `dead retry` puts the letters back, `dead purge` drops them for
    good.
    """
    from hermes_tasks.ops.words import count
    from hermes_tasks.transport.steering import Steering

    name = full_name(session)
    with sessions_here() as store:
        before = store.progress(name)
        waiting = count(before.waiting + before.backlog, "turn")
        confirm(f"Make dead letters of {waiting} of {printable(name)}?", yes)
        dropped = Steering(store).drop(name, reason)
    if as_json:
        print_json({"session": name, "dropped": list(dropped.ids), "inflight": dropped.inflight})
        return
    click.echo(f"{printable(name)}: {count(len(dropped.ids), 'turn')} dropped")
    if dropped.inflight:
        click.echo(f"{count(dropped.inflight, 'turn')} stay: a worker is writing them")
    if dropped.ids:
        click.echo("They are kept: `hermes-tasks dead list --reason dropped`")


def _say(name: str, state: str | None, as_json: bool, said: str) -> None:
    if as_json:
        print_json({"session": name, "state": state})
    else:
        click.echo(f"{printable(name)}: {said}")


def _gate(store: SessionStore, session: str) -> GateStatus | None:
    """The gate that the session stands at."""
    from hermes_tasks.gate import Gate

    return Gate(store, policy_here(), session.rpartition(":")[0]).status()
