"""How every command ends: what goes wrong on purpose is one line on stderr and an exit status."""

from __future__ import annotations

import errno
from typing import Any

import click

from hermes_tasks import errors

INCOMPLETE = 1
USAGE = 2
BROKER = 3
HONCHO = 4
INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended: 128 + SIGINT."""

_STATUSES: tuple[tuple[type[errors.HermesTasksError], int], ...] = (
    (errors.ConfigurationError, USAGE),
    (errors.InvalidTurn, USAGE),
    (errors.SourceError, USAGE),
    (errors.UnknownLetter, USAGE),
    (errors.UnknownSession, USAGE),
    (errors.UnknownGate, USAGE),
    (errors.QueueError, BROKER),
    (errors.HonchoError, HONCHO),
)


def exit_status(error: errors.HermesTasksError) -> int:
    """The exit status for an error: see :mod:`hermes_tasks.cli`."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), INCOMPLETE)


class Group(click.Group):
    """A command group that shows no traceback for errors of our own tree."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.HermesTasksError as error:
            # One line, whatever a library put into it.
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(exit_status(error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends in silence, as `| head` expects
            click.echo(f"error: {error}", err=True)
            ctx.exit(INCOMPLETE)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
