"""How long each phase of a call to Honcho may take.

The total tells a slow service from a dead one late. So the phases have limits of their own: a
service that accepts and says nothing, and one that falls silent in the middle, are cut long before
the total is over, and the error names what was waited for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from hermes_tasks.config import environment_variable

if TYPE_CHECKING:
    from hermes_tasks.config import Settings

logger = logging.getLogger(__name__)

BATCH: Final = 20
"""Messages for which the first byte may take as much longer again: Honcho answers when all of a
call are stored, and counts the tokens of each before."""

_said: set[str] = set()
"""Warnings given. A process that is forked afterwards does not repeat them."""


@dataclass(frozen=True, slots=True)
class Watchdogs:
    """The limits of a call's phases, in seconds; 0 leaves a phase to the call's total.

    Attributes:
        connect: until a connection stands: all addresses of the host, a proxy's tunnel and TLS.
        first_byte: from the last byte of the request to the first of the answer, for a call without
            messages.
        idle: without any byte, while a request is sent and after an answer began.
        strict: ``first_byte`` does not grow with the number of messages.
    """

    connect: float = 10.0
    first_byte: float = 30.0
    idle: float = 10.0
    strict: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Those of the settings, none above the longest time of a call.

        A setting that would be is cut to that, with one warning in a process and those it forks.
        """
        ceiling = settings.timeout_ceiling
        for name in ("connect_seconds", "first_byte_seconds", "idle_seconds"):
            seconds = getattr(settings, name)
            # A default follows a lower ceiling in silence.
            if seconds > ceiling and name in settings.model_fields_set:
                _warn(
                    f"{environment_variable(name)} is {seconds:g} s: cut to "
                    f"{environment_variable('timeout_ceiling')}, {ceiling:g} s"
                )
        return cls(
            connect=min(settings.connect_seconds, ceiling),
            first_byte=min(settings.first_byte_seconds, ceiling),
            idle=min(settings.idle_seconds, ceiling),
            strict=settings.first_byte_strict,
        )

    def first_byte_of(self, messages: int) -> float:
        """Seconds until the first byte of the answer to so many messages; 0: no limit."""
        return self.first_byte if self.strict else self.first_byte * (1 + messages / BATCH)


def _warn(text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning(text)
