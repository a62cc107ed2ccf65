"""The broker as the commands of an operator reach it: it answers soon, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from hermes_tasks.transport import SessionStore


@contextmanager
def sessions_of(settings: Settings) -> Iterator[SessionStore]:
    """The sessions of a deployment, for the length of the block.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us, now or within the block.
    """
    from hermes_tasks.app import make_app
    from hermes_tasks.gateway.link import FAILURES, Link

    link = Link(make_app(settings, set_as_current=False), settings.safe_broker_url)
    try:
        yield link.channel().sessions
    except FAILURES as error:
        raise link.broken(error) from error
    finally:
        link.close()
