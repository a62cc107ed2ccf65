"""What commands print: tables and sentences for people, one document for programs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])

#: Columns of a pipe: a line of a table stays one line there, so that grep finds all of it.
_PIPE_COLUMNS = 1_000


def json_option(command: F) -> F:
    """``--json``: one document for programs instead of a text for people."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document; times are seconds."
    )(command)


def print_json(document: Any) -> None:
    """Print a document. Dataclasses are objects in it, with the names of their fields."""
    click.echo(json.dumps(document, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def console() -> Console:
    """Where people read: as wide as their terminal."""
    from rich.console import Console

    # There may be none: a shell's `>&-`.
    is_narrow = (sys.stdout is not None and sys.stdout.isatty()) or os.environ.get(
        "COLUMNS", ""
    ).isdecimal()
    return Console(highlight=False, width=None if is_narrow else _PIPE_COLUMNS)


def table(title: str, *columns: str, fold: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """An empty table.

    Args:
        title: stands above it.
        columns: their headings; none for a table of names and values.
        fold: columns that may be broken when there is no room; the others never are.
        right: columns of numbers.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # Without the lines around it: at 80 columns they are a tenth of what can be read.
    made = Table(
        title=shown(title, "bold") if title else None,
        title_justify="left",
        show_header=bool(columns),
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        made.add_column(
            column,
            overflow="fold",
            no_wrap=column not in fold,
            justify="right" if column in right else "left",
        )
    return made


def named_values(title: str, lines: Iterable[tuple[str, str]]) -> Table:
    """A table of names and values."""
    made = table(title)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in lines:
        made.add_row(name, shown(value))
    return made


def shown(value: object, style: str = "") -> Text:
    """A value as text and nothing else.

    A session may be called ``[bold]``, and an error may hold what steers a terminal.
    """
    from rich.text import Text

    return Text(printable(str(value)), style)


def printable(text: str) -> str:
    """A text with all that is neither seen nor a space escaped, such as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "replace").decode()
        for one in text
    )


def quiet() -> None:
    """Keep what is logged off the terminal: a command says itself what it has done."""
    logging.getLogger("hermes_tasks").addHandler(logging.NullHandler())
