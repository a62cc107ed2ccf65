"""What a message went through, kept in silence and told once, when it is given up.

A trace is text, in the session's hash and then in the dead letter: a line ``<ms> <text>`` for
each thing that happened, oldest first, the first ten and the last thirty of them. A line that
begins with ``held: `` is a wait, every other one a failure.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from hermes_tasks.errors import GivenUp

#: What the line of a wait begins with.
WAIT = "held: "


def failures(trace: str) -> list[str]:
    """The failures of a trace, oldest first, without their times."""
    lines = (line.partition(" ")[2] for line in trace.splitlines())
    return [line for line in lines if line and not line.startswith(WAIT)]


def given_up(trace: str, last: str = "") -> GivenUp:
    """The error that says why a message was given up.

    Its cause is the first failure of the trace; the error itself is ``last``, or the last failure.
    """
    told = failures(trace)
    error = GivenUp(last or (told[-1] if told else "given up"))
    if told and told[0] != str(error):
        error.__cause__ = GivenUp(told[0])
    return error


def log_given_up(logger: logging.Logger, id: str, session: str, trace: str, last: str = "") -> None:
    """Say once, as an error with its cause, that a message was given up, and its whole trace."""
    logger.error(
        "Message %s of session %s is a dead letter%s",
        id,
        session,
        "".join(f"\n  {line}" for line in readable(trace)),
        exc_info=given_up(trace, last),
    )


def readable(trace: str) -> list[str]:
    """The lines of a trace, with their times as ISO 8601."""
    return [_readable(line) for line in trace.splitlines()]


def _readable(line: str) -> str:
    time, _, text = line.partition(" ")
    if not time.isdecimal():
        return line
    when = datetime.fromtimestamp(int(time) / 1000, UTC)
    return f"{when.isoformat(timespec='milliseconds')} {text}"
