"""What our workers add to Celery's: a check of their settings, and silence about conversations."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import Celery, bootsteps
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer

from hermes_tasks.errors import ConfigurationError, HermesTasksError

logger = get_logger(__name__)

EXIT_USAGE = 2
WITHHELD = "<withheld>"


def install(app: Celery) -> None:
    """Add our steps to the workers of an app."""
    app.steps["worker"].add(CheckSettings)
    # It says a line for every call at INFO, the level most workers run at.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def complain(error: HermesTasksError) -> int:
    """One line on standard error; returns the exit status."""
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE


class CheckSettings(bootsteps.Step):
    """A worker that cannot write says so when it starts, not at its first turn."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        from hermes_tasks.transport import run_queue

        app = parent.app
        consumed = app.amqp.queues.consume_from
        if run_queue(app.settings.prefix).name not in consumed:
            return  # a worker for other queues of the app writes nothing
        try:
            app.settings.require_honcho_url()
            import hermes_tasks.honcho.client  # noqa: F401 - says what to install if it cannot
        except ConfigurationError as error:
            raise SystemExit(complain(error)) from None


class Consumer(CeleryConsumer):
    """Celery's consumer, without message bodies in its log."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        super().on_unknown_message(WITHHELD, _Described(message))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_unknown_task(WITHHELD, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(WITHHELD, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        logger.critical(
            "Cannot decode message %s (%s, %s): %s",
            message.headers.get("id"),
            message.content_type,
            message.content_encoding,
            type(exc).__name__,
        )
        message.ack()


class _Described:
    """A message whose body reads as withheld."""

    body = WITHHELD

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)
