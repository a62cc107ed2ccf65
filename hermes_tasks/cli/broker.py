"""The broker as the commands of an operator reach it: it answers soon, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hermes_tasks.config import Settings, redact_url
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.identity import honcho_id
from hermes_tasks.turns import session_key

if TYPE_CHECKING:
    from celery import Celery

    from hermes_tasks.gate import Policy
    from hermes_tasks.transport import SessionStore


@contextmanager
def sessions_of(settings: Settings) -> Iterator[SessionStore]:
    """The sessions of a deployment, for the length of the block, to change them.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us, now or within the block.
    """
    from hermes_tasks.app import make_app

    with _store(make_app(settings, set_as_current=False), settings.safe_broker_url) as store:
        yield store


@contextmanager
def view_of(settings: Settings) -> Iterator[SessionStore]:
    """The same, only to look at them: nothing is written to Redis.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us, now or within the block.
    """
    from hermes_tasks.app import make_app

    app = make_app(settings, set_as_current=False)
    with _store(app, settings.safe_broker_url, to_look=True) as store:
        yield store


@contextmanager
def sessions_here(*, to_look: bool = False) -> Iterator[SessionStore]:
    """The sessions that a command is for, whichever program it is a command of.

    Under ``celery -A``, those of that application, whoever wrote it; else those of the settings.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us, now or within the block.
        ConfigurationError: the application has no ordered queues.
    """
    app = _app_of_celery()
    if app is None:
        with (view_of if to_look else sessions_of)(Settings.load()) as store:
            yield store
        return
    safe_url = redact_url(str(app.conf.broker_write_url))
    if not _is_ordered(app):
        raise ConfigurationError(
            f"the broker of this application is {safe_url}, which has no ordered queues: name "
            "the application that has them, such as `celery -A hermes_tasks sessions list`"
        )
    with _store(app, safe_url, to_look=to_look) as store:
        yield store


def full_name(session: str) -> str:
    """The whole name of a session, ``backend:workspace:session``.

    Anything with fewer colons is what a gateway calls the session, such as ``telegram:42``: the
    settings say the rest, and it is made the same id that the gateway makes of it.

    Raises:
        InvalidTurn: it is empty.
    """
    app = _app_of_celery()
    settings = Settings.load() if app is None else getattr(app, "settings", None)
    if session.count(":") > 1 or settings is None:
        return session
    id = honcho_id(session, "session")
    return session_key(settings.backend, settings.honcho_workspace_id, id)


def policy_here() -> Policy:
    """By which a command reads gates: that of the settings, where there are any."""
    from hermes_tasks.gate import Policy

    app = _app_of_celery()
    settings = Settings.load() if app is None else getattr(app, "settings", None)
    return Policy() if settings is None else Policy.from_settings(settings)


@contextmanager
def _store(app: Celery, safe_url: str, *, to_look: bool = False) -> Iterator[SessionStore]:
    from hermes_tasks.gateway.link import FAILURES, Link
    from hermes_tasks.ops.view import store_to_look

    link = Link(app, safe_url)
    try:
        if not to_look:
            yield link.channel().sessions
            return
        store = store_to_look(app)
        try:
            yield store
        finally:
            store.client.connection_pool.disconnect()
    except FAILURES as error:
        raise link.broken(error) from error
    finally:
        link.close()


def _is_ordered(app: Celery) -> bool:
    from hermes_tasks.transport.channel import SessionChannel

    transport: Any = app.connection_for_write().get_transport_cls()
    return issubclass(transport.Channel, SessionChannel)


def _app_of_celery() -> Celery | None:
    """The application of ``celery -A``, if that is what runs."""
    context = click.get_current_context(silent=True)
    return None if context is None else getattr(context.obj, "app", None)
