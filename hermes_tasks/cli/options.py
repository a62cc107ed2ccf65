"""Arguments and options that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from hermes_tasks.cli import group

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MOST_DAYS = 3_650
"""Of what is longer no calendar knows the end."""


class Span(click.ParamType[float]):
    """Seconds, written as ``90``, ``90s``, ``15m``, ``12h`` or ``7d``."""

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", str(value), re.ASCII)
        if found is None:
            self.fail("must be seconds, or a number with s, m, h or d behind it", param, ctx)
        seconds = float(found[1]) * _SECONDS[found[2]]
        if seconds > _MOST_DAYS * _SECONDS["d"]:
            self.fail(f"must be {_MOST_DAYS}d at most", param, ctx)
        return seconds


SPAN = Span()


class NobodyToAsk(click.ClickException):
    """A command that asks first runs where nobody can answer."""

    exit_code = group.USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=file is None)


def yes_option(command: F) -> F:
    """``--yes``: do not ask before something is destroyed."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        NobodyToAsk: and ``--yes`` was not given.
        Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NobodyToAsk("nobody is there to be asked: give --yes to do it")
    click.confirm(question, abort=True, err=True)
