"""The Celery app: our defaults, then ``celeryconfig``, then the environment.

``celery -A hermes_tasks worker`` finds ``app`` here, made when it is asked for, and needs no
flags. A gateway makes its own with :func:`make_app`, so that it neither reads a ``celeryconfig``
meant for workers nor becomes the process's current app.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from celery import Celery
from kombu import Queue

from hermes_tasks.config import Settings
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.transport import SessionAMQP, run_queue, session_queue, transport_for

TASK = "hermes_tasks.sync_turn"

#: Seconds after which a worker's pool process is killed with its task: far above any chain of calls
#: a batch can need, so it only meets code that hangs.
HARD_TIME_LIMIT = 300


def make_app(settings: Settings, **options: Any) -> Celery:
    """A Celery app for these settings, with our task. ``options`` go to :class:`~celery.Celery`."""
    import hermes_tasks.tasks  # noqa: F401 - a shared task: every app has it once it is defined

    app = Celery("hermes_tasks", amqp=SessionAMQP, **options)
    app.conf.update(celery_settings(settings))
    app.settings = settings
    return app


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's settings for a deployment, each with what it is for."""
    return {
        "broker_url": settings.broker_url,
        "broker_transport": transport_for(settings.broker_url),
        "broker_transport_options": {
            "session_prefix": settings.prefix,
            "session_lease": settings.lease_seconds,
            "session_waiting_limit": settings.queue_limit,
            "session_backlog_limit": settings.backlog_limit,
            "session_batch_messages": settings.batch_turns,
            "session_batch_size": settings.batch_messages,
            # A publish to a black-holed Redis would wait for ever.
            "socket_connect_timeout": 5.0,
            "socket_timeout": 30.0,
            "socket_keepalive": True,
        },
        # A worker that gives up its broker needs a human; one that waits does not.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Turns go through the run queue, everything else through an ordinary queue.
        "task_queues": [Queue(default_queue(settings.prefix)), run_queue(settings.prefix)],
        "task_default_queue": default_queue(settings.prefix),
        "task_default_exchange": default_queue(settings.prefix),
        "task_default_routing_key": default_queue(settings.prefix),
        "task_routes": (route_turns(settings.prefix),),
        # One session per slot: a session that waits in a busy worker waits for nothing.
        "worker_prefetch_multiplier": 1,
        # A running write ends under its lease; killing it would only make its end unknown.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Celery's own consumer writes a message it cannot read to the log, conversation and all.
        "worker_consumer": "hermes_tasks.worker:Consumer",
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
    }


def default_queue(prefix: str) -> str:
    """The queue of tasks that are not turns."""
    return f"{prefix}.default"


def route_turns(prefix: str) -> Callable[..., dict[str, Any] | None]:
    """Celery router: every turn goes to the queue of its session."""

    def route(
        name: str,
        args: Any,
        kwargs: dict[str, Any],
        options: dict[str, Any],
        task: Any = None,
        **_: Any,
    ) -> dict[str, Any] | None:
        if name != TASK:
            return None
        turn = args[0] if args else kwargs["turn"]
        key = f"{turn['backend']}:{turn['workspace']}:{turn['session']}"
        return {"queue": session_queue(key, prefix)}

    return route


@cache
def worker_app() -> Celery:
    """The app of ``celery -A hermes_tasks``, settings and ``celeryconfig`` read once.

    A setting that cannot be used ends the process with one line: Celery would print a traceback.
    """
    from hermes_tasks import worker

    try:
        settings = Settings.load()
    except ConfigurationError as error:
        raise SystemExit(worker.complain(error)) from None
    app = make_app(settings)
    app.config_from_object("celeryconfig", silent=True)
    if "broker_url" in settings.model_fields_set:
        app.conf.broker_url = settings.broker_url
    worker.install(app)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return worker_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
