"""``hermes-tasks sessions``, and ``celery -A … sessions``: which sessions wait, why, and a hand on
them.

The group and what looks; :mod:`.steering` has what changes something.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli.broker import full_name, policy_here, sessions_here
from hermes_tasks.cli.group import Group
from hermes_tasks.cli.output import (
    console,
    json_option,
    named_values,
    print_json,
    printable,
    quiet,
    shown,
    table,
)
from hermes_tasks.cli.steering import drop, pause, resume, wait, wake
from hermes_tasks.errors import UnknownSession

if TYPE_CHECKING:
    from rich.table import Table

    from hermes_tasks.ops.listing import Page, QueuedTurn, SessionDetail, SessionRow
    from hermes_tasks.transport import SessionStore

_STATES = ("ready", "leased", "sleeping", "held", "paused")
_MOST = 1_000


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def sessions() -> None:
    """Sessions with turns to write: list them, see why one waits, pause it, let it go on.

    A session is named `backend:workspace:session`, as `list` has it. What a gateway calls it, such
    as `telegram:42`, will do where that has one colon at most: HERMES_TASKS_BACKEND and
    HONCHO_WORKSPACE_ID say the rest. No command shows what was said.

    \b
    Exit status:
      0  done
      1  of wait: not all is written in time; of wake: it cannot go on yet; or you said no
      2  wrong usage, or there is no such session
      3  Redis does not answer, or refuses us
    """
    quiet()


@sessions.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--limit", default=50, type=click.IntRange(1, _MOST), show_default=True)
@click.option("--cursor", default="", help="Go on where the page before ended.")
@json_option
def list_sessions(state: str | None, limit: int, cursor: str, as_json: bool) -> None:
    """List sessions that have turns to write, the one that lags most first."""
    from hermes_tasks.ops import listing

    with sessions_here(to_look=True) as store:
        try:
            page = listing.list_sessions(store, cursor=cursor, limit=limit, state=state)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--cursor'") from None
    if as_json:
        print_json(page)
        return
    if page.rows:
        console().print(_table(page))
    else:
        click.echo("No session has turns to write." if not cursor else "No more sessions.")
    if page.cursor:
        click.echo(f"More: --cursor {_quoted(page.cursor)}")


@sessions.command()
@click.argument("session")
@click.option("--turns", default=20, type=click.IntRange(1, _MOST), show_default=True)
@json_option
def show(session: str, turns: int, as_json: bool) -> None:
    """Show a session: why its turns wait, what was tried, and which turns they are."""
    from hermes_tasks.ops.listing import read_session

    name = full_name(session)
    with sessions_here(to_look=True) as store:
        found = read_session(store, name, turns=turns)
        if found is None:
            raise UnknownSession(
                f"Redis knows no session {printable(name)}: it is forgotten a day after its last "
                "turn; `sessions list` shows those that have turns to write"
            )
        why = _reason(store, found)
    if as_json:
        print_json(dataclasses.asdict(found) | {"waits_for": why})
        return
    out = console()
    out.print(named_values(f"Session {printable(found.session)}", _lines(found, why)))
    if found.turns:
        out.print(_turns(found))


for steer in (wait, wake, pause, resume, drop):
    sessions.add_command(steer)


def _table(page: Page) -> Table:
    from hermes_tasks.ops.words import duration

    columns = ("session", "state", "lag", "turns")
    made = table("Sessions", *columns, fold=("session", "state"), right=("lag",))
    for row in page.rows:
        queued = row.inflight + row.waiting + row.backlog
        backlog = f" ({row.backlog:,} in the backlog)" if row.backlog else ""
        made.add_row(
            shown(row.session),
            shown(_state(row)),
            "" if row.lag is None else duration(row.lag),
            f"{queued:,}{backlog}",
        )
    return made


def _state(row: SessionRow) -> str:
    """Its state, and what belongs to it: ``sleeping 12 s, 3 failed``."""
    from hermes_tasks.ops.words import duration

    said = row.state if row.wakes_in is None else f"{row.state} {duration(row.wakes_in)}"
    if row.paused and row.state != "paused":
        said += ", to pause"
    return f"{said}, {row.attempts} failed" if row.attempts else said


def _reason(store: SessionStore, found: SessionDetail) -> str:
    """What its oldest turn waits for, as a ``flush`` that runs out of time says it; or nothing."""
    from hermes_tasks.gate import Gate
    from hermes_tasks.gateway.obstacle import in_redis
    from hermes_tasks.transport.reading import progress_of

    if not found.turns:
        return ""
    gate = Gate(store, policy_here(), found.session.rpartition(":")[0])
    (progress,) = progress_of(store, [found.session])
    return in_redis(progress, found.accepted, gate.status).reason


def _lines(found: SessionDetail, why: str) -> Iterator[tuple[str, str]]:
    from hermes_tasks.ops.words import clock, duration

    yield "state", _state(found)
    yield "waits for", why or "nothing: all of its turns are settled"
    if found.lag is not None:
        yield "lag", duration(found.lag)
    if found.worker:
        yield "worker", found.worker
    yield "accepted", f"to number {found.accepted:,}"
    yield "written", f"to number {found.written:,}"
    inflight, backlog, waiting = found.inflight, found.backlog, found.waiting
    yield "queued", f"{inflight:,} in flight, {backlog:,} in the backlog, {waiting:,} waiting"
    if found.doubt is not None:
        until = f" until {clock(found.doubt.until / 1000)}" if found.doubt.until else ""
        numbers = f"numbers {found.doubt.first} to {found.doubt.last}"
        yield "in doubt", f"{numbers}: a call may have written them, or may yet{until}"
    for number, line in enumerate(found.trace):
        yield "" if number else "trace", line


def _turns(found: SessionDetail) -> Table:
    from hermes_tasks.ops.words import duration

    queued = found.inflight + found.waiting + found.backlog
    rest = f" (the oldest {len(found.turns)} of {queued:,})" if queued > len(found.turns) else ""
    made = table(
        f"Turns{rest}",
        "number",
        "turn",
        "place",
        "messages",
        "age",
        fold=("turn",),
        right=("number", "messages", "age"),
    )
    turn: QueuedTurn
    for turn in found.turns:
        made.add_row(
            str(turn.number), shown(turn.id), turn.place, str(turn.size), duration(turn.age)
        )
    return made


def _quoted(cursor: str) -> str:
    import shlex

    return shlex.quote(printable(cursor))
