"""``hermes-tasks dead``: the turns that were given up, and what is to become of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import full_name, sessions_of, view_of
from hermes_tasks.cli.options import SPAN, confirm, yes_option
from hermes_tasks.cli.output import console, json_option, print_json, printable, shown
from hermes_tasks.cli.output import table as new_table
from hermes_tasks.config import Settings
from hermes_tasks.errors import InvalidTurn, UnknownLetter

if TYPE_CHECKING:
    from rich.table import Table

    from hermes_tasks.transport.dead import DeadLetter, DeadLetters, Retried

_MOST = 100_000

only_session = click.option(
    "--session",
    default="",
    callback=lambda _context, _option, name: name and full_name(name),
    help="Only of this session, named as for `sessions`.",
)
only_reason = click.option("--reason", default="", help="Only of this reason, such as given_up.")


@click.group()
def dead() -> None:
    """Turns that were given up: look at them, retry them, or drop them for good.

    A letter is named by the id that `list` shows, or by the id of its turn, as logs have it. Only
    `show --content` shows text.

    \b
    Exit status:
      0  done
      1  not all letters could be retried; or you said no
      2  wrong usage, or there is no such letter
      3  Redis does not answer, or refuses us
    """


@dead.command("list")
@only_session
@only_reason
@click.option("--limit", default=50, type=click.IntRange(1, _MOST), show_default=True)
@click.option("--cursor", metavar="ID", default="", help="Only those older than this one.")
@json_option
def list_letters(session: str, reason: str, limit: int, cursor: str, as_json: bool) -> None:
    """List dead letters, the newest first."""
    from hermes_tasks.transport.dead import DeadLetters

    with view_of(Settings.load()) as store:
        letters = DeadLetters(store)
        try:
            some = letters.newest(session=session, reason=reason, limit=limit + 1, before=cursor)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--cursor'") from None
        found = list(some)
    listed = found[:limit]
    if as_json:
        print_json([_as_json(letter) for letter in listed])
    elif not listed:
        click.echo("No dead letters.")
    else:
        console().print(_table(listed))
        if len(found) > limit:
            click.echo(f"More: --cursor {listed[-1].entry}")


@dead.command()
@click.argument("letter", metavar="ID")
@click.option("--content", is_flag=True, help="Show what was to be written as well.")
@json_option
def show(letter: str, content: bool, as_json: bool) -> None:
    """Show a dead letter with the trace of its attempts."""
    from hermes_tasks.transport.dead import DeadLetters

    described = []
    settings = Settings.load()
    with view_of(settings) as store:
        letters = DeadLetters(store)
        for found in _named(letters, [letter]):
            one = _as_json(found)
            if content:
                one["content"] = _content(letters.message(found) or b"", settings)
            described.append(one)
    if as_json:
        print_json(described)
        return
    for one in described:
        for name, value in one.items():
            if name == "trace":
                click.echo("trace:" + "".join(f"\n  {printable(line)}" for line in value))
            elif isinstance(value, dict):
                click.echo(f"{name}:\n{json.dumps(value, indent=2, ensure_ascii=False)}")
            else:
                click.echo(f"{name}: {printable(str(value))}")


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Retry all letters there are now.")
@only_session
@only_reason
@json_option
def retry(ids: Sequence[str], everything: bool, session: str, reason: str, as_json: bool) -> None:
    """Put letters back into their sessions.

    A letter goes back to its old place, in front of what its session said later, unless something
    later is written or may be: then it goes to the end. Which, is said. Honcho is asked for it
    before it is written. A letter whose session has no room stays.
    """
    from hermes_tasks.transport.dead import DeadLetters

    _one_of(ids=bool(ids), everything=everything)
    _without_ids(ids, session, reason)
    tried = []
    with sessions_of(Settings.load()) as store:
        letters = DeadLetters(store)
        for done in letters.retry(_wanted(letters, ids, session, reason)):
            tried.append(done)
            if not as_json:
                id = printable(done.letter.id)
                click.echo(f"{done.letter.entry} turn {id}: {_said(done)}")
    if as_json:
        print_json([_retried_as_json(done) for done in tried])
    elif not tried:
        click.echo("No dead letters.")
    stayed = sum(not done.is_queued for done in tried)
    if stayed:
        click.echo(f"{stayed} not retried", err=True)
        click.get_current_context().exit(group.INCOMPLETE)


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Drop all letters there are now.")
@click.option(
    "--older-than", metavar="AGE", type=SPAN, help="Drop all of this age, such as 7d or 12h."
)
@only_session
@only_reason
@yes_option
@json_option
def purge(
    ids: Sequence[str],
    everything: bool,
    older_than: float | None,
    session: str,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Drop letters for good, after asking: what they say will never be written."""
    from hermes_tasks.transport.dead import DeadLetters

    _one_of(ids=bool(ids), everything=everything, older_than=older_than is not None)
    if older_than is not None and (session or reason):
        raise click.UsageError("--older-than takes all letters: leave out --session and --reason")
    _without_ids(ids, session, reason)
    with sessions_of(Settings.load()) as store:
        letters = DeadLetters(store)
        if older_than is not None:
            confirm("Drop all letters of this age for good?", yes)
            dropped = letters.discard_older(older_than)
        else:
            wanted = _wanted(letters, ids, session, reason)
            confirm(f"Drop {len(wanted)} of the letters for good?", yes)
            dropped = letters.discard(wanted)
    if as_json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"{dropped} dropped")


def _one_of(**ways: bool) -> None:
    """Exactly one way of naming letters, or it is wrong usage."""
    if sum(ways.values()) != 1:
        names = {"ids": "IDs", "everything": "--all", "older_than": "--older-than"}
        raise click.UsageError(f"give one of: {', '.join(names[way] for way in ways)}")


def _without_ids(ids: Sequence[str], session: str, reason: str) -> None:
    """What chooses among all letters says nothing about letters that are named."""
    if ids and (session or reason):
        raise click.UsageError("--session and --reason choose among all: leave out the IDs")


def _wanted(
    letters: DeadLetters, ids: Sequence[str], session: str, reason: str
) -> list[DeadLetter]:
    """The letters that are named, or all, of this session and reason."""
    return _named(letters, ids) if ids else list(letters.newest(session=session, reason=reason))


def _named(letters: DeadLetters, ids: Sequence[str]) -> list[DeadLetter]:
    """The letters that are named, each once; nothing is done if one of them is unknown."""
    found: dict[str, DeadLetter] = {}
    for id in ids:
        named = letters.named(id)
        if not named:
            raise UnknownLetter(f"there is no dead letter {id}: `hermes-tasks dead list` shows all")
        found.update((letter.entry, letter) for letter in named)
    return list(found.values())


_ANSWERS = {
    "front": "at its old place, before what its session said later",
    "end": "at the end of its session, as something later is written or may be",
    "duplicate": "stays: its turn is queued already",
    "full": "stays: its session has no room",
    "doubt": "stays: an earlier call may still write it, and its session is being worked on",
    "gone": "is gone: somebody else was faster",
}


def _said(done: Retried) -> str:
    said = _ANSWERS[done.answer]
    return f"{said}; {done.wait:.0f} s until no earlier call can write it" if done.wait else said


def _table(letters: Sequence[DeadLetter]) -> Table:
    made = new_table(
        "Dead letters",
        *("id", "given up (UTC)", "reason", "session", "turn"),
        fold=("reason", "session", "turn"),
    )
    for letter in letters:
        reason = f"{letter.reason}: {letter.detail}" if letter.detail else letter.reason
        when = letter.at.strftime("%Y-%m-%d %H:%M:%S")
        made.add_row(*map(shown, (letter.entry, when, reason, letter.session, letter.id)))
    return made


def _retried_as_json(done: Retried) -> dict[str, Any]:
    return {
        "id": done.letter.entry,
        "session": done.letter.session,
        "turn": done.letter.id,
        "answer": done.answer,
        "queued": done.is_queued,
        "wait": done.wait,
    }


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    from hermes_tasks.transport.trace import readable

    return {
        "id": letter.entry,
        "given_up": letter.at.isoformat(timespec="milliseconds"),
        "session": letter.session,
        "turn": letter.id,
        "number": letter.number,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "trace": readable(letter.trace),
    }


def _content(message: bytes, settings: Settings) -> Any:
    """The turn of a message as it was sent, or the message if there is none to be read in it.

    Raises:
        MissingKey: it is sealed with a key that is not in the settings.
    """
    from kombu.exceptions import ContentDisallowed, DecodeError

    from hermes_tasks.sealing import Sealed, is_sealed, keyring_of
    from hermes_tasks.transport import wire

    try:
        args, kwargs = wire.decode_body(wire.unpack(message.decode()), [wire.JSON])
        turn = args[0] if args else kwargs["turn"]
    except (ValueError, TypeError, LookupError, RecursionError, DecodeError, ContentDisallowed):
        return message.decode(errors="replace")
    if not is_sealed(turn):
        return turn
    try:
        return keyring_of(settings).open(Sealed.from_json(turn))
    except InvalidTurn:
        return turn
