"""The Celery app: our defaults, then ``celeryconfig``, then the environment.

``celery -A hermes_tasks worker`` finds ``app`` here, made when it is asked for, and needs no
flags. A gateway makes its own with :func:`make_app`, so that it neither reads a ``celeryconfig``
meant for workers nor becomes the process's current app.
"""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import click
from celery import Celery
from celery.utils.imports import cwd_in_path
from kombu import Queue
from kombu.utils.url import parse_url

from hermes_tasks.config import Settings
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.transport import SessionAMQP, run_queue, session_queue
from hermes_tasks.turns import session_key

TASK = "hermes_tasks.sync_turn"

#: How many calls at the ceiling a task may make before it is told to stop: questions, a session,
#: and the writes of a batch of 50 that is halved until the turn at fault is alone.
CALLS = 10
#: Seconds after that, in which it puts its turns off; then its pool process is killed.
LAST_SECONDS = 15.0
#: What Celery's headers add to a turn, at most.
ENVELOPE_BYTES = 65_536

#: Our settings that are options of the transport.
SESSION_OPTIONS = {
    "prefix": "session_prefix",
    "lease_seconds": "session_lease",
    "queue_limit": "session_waiting_limit",
    "backlog_limit": "session_backlog_limit",
    "batch_turns": "session_batch_messages",
    "batch_messages": "session_batch_size",
    "dead_max_age": "session_dead_max_age",
}


def make_app(
    settings: Settings, overrides: Mapping[str, Any] | None = None, **options: Any
) -> Celery:
    """A Celery app for these settings, with our task.

    Args:
        settings: the settings of the deployment.
        overrides: Celery settings that are put over our defaults, as from a ``celeryconfig``. With
            ``None``, the environment variable ``CELERY_BROKER_URL`` counts for nothing either.
        options: go to :class:`~celery.Celery`.

    Raises:
        ConfigurationError: the broker cannot be reached with these settings.
    """
    import hermes_tasks.tasks  # noqa: F401 - a shared task: every app has it once it is defined

    pinned = {}
    if overrides is None:
        # CELERY_BROKER_URL, which `celery -b` sets, may be that of another application in a host.
        pinned = dict.fromkeys(("broker_read_url", "broker_write_url"), settings.broker_url)
        overrides = {}
    app = Celery("hermes_tasks", amqp=SessionAMQP, **options)
    # CELERY_RESULT_BACKEND would go before what is asked for here.
    app.backend_cls = options.get("backend")
    # An empty source would make Celery read the module that CELERY_CONFIG_MODULE names.
    app.config_from_object({"accept_content": ["json"], **overrides})
    # What is set before Celery reads its configuration stands above it.
    app.conf.update(_under(overrides, settings), **pinned)
    app.settings = settings
    _check_sentinel(app.conf.broker_write_url, app.conf.broker_transport_options)
    try:
        if not app.conf.broker_use_ssl:
            # Kombu reads them from the URL; Flower looks here.
            app.conf.broker_use_ssl = _tls_options(app.conf.broker_write_url)
        app.connection_for_write()  # reads the URL, and connects to nothing
    except (TypeError, KeyError, ValueError):
        # Without its cause, which may quote the option.
        raise ConfigurationError(
            f"HERMES_TASKS_BROKER_URL is {settings.safe_broker_url}: an option after its ? is not "
            "known, or cannot have this value; those of the transport go into "
            "HERMES_TASKS_BROKER_OPTIONS"
        ) from None
    return app


def _under(overrides: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """:func:`celery_settings`, changed by ``overrides`` where the environment does not say.

    Options of the transport are merged, so that naming one of them keeps the others.
    """
    conf = celery_settings(settings)
    options = {
        **conf["broker_transport_options"],
        **overrides.get("broker_transport_options", {}),
        **settings.broker_options,
        **{
            option: getattr(settings, name)
            for name, option in SESSION_OPTIONS.items()
            # Queues and routes are named after the prefix, so it cannot differ here alone.
            if name in settings.model_fields_set or name == "prefix"
        },
    }
    conf.update((name, overrides[name]) for name in conf.keys() & overrides.keys())
    conf["broker_transport_options"] = options
    if "broker_url" in settings.model_fields_set:
        conf["broker_url"] = settings.broker_url
    return conf


def _check_sentinel(url: Any, options: Mapping[str, Any]) -> None:
    if str(url).startswith("sentinel://") and not options.get("master_name"):
        raise ConfigurationError(
            "sentinel:// needs the name of the master it asks for: set "
            """HERMES_TASKS_BROKER_OPTIONS='{"master_name": "mymaster"}'"""
        )


def _tls_options(url: Any) -> dict[str, Any] | bool:
    """How the broker's certificate is checked, for ``rediss://``."""
    if not str(url).startswith("rediss://"):
        return False
    return parse_url(url).get("ssl") or {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's settings for a deployment, each with what it is for."""
    soft = CALLS * settings.timeout_ceiling
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": {
            # A publish to a black-holed Redis would wait for ever.
            "socket_connect_timeout": 5.0,
            "socket_timeout": 30.0,
            "socket_keepalive": True,
            "session_lease_max_age": 2 * soft,
            "session_landing": settings.timeout_ceiling + settings.landing_seconds,
            # Encrypted and in base64, twice as it were, a turn is longer by less than 4/5.
            "session_message_limit": 2 * settings.turn_bytes + ENVELOPE_BYTES,
            **{option: getattr(settings, name) for name, option in SESSION_OPTIONS.items()},
            **settings.broker_options,
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
        # Each call has its deadline, so these only meet code that hangs. Its lease is renewed until
        # then: longer than any call can take, or two workers would write at once.
        "task_annotations": {
            TASK: {"soft_time_limit": soft, "time_limit": soft + LAST_SECONDS},
        },
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
        key = session_key(turn["backend"], turn["workspace"], turn["session"])
        # Such a queue is never declared. Told so, Kombu need not bind it to find that out.
        return {"queue": session_queue(key, prefix), "declare": []}

    return route


@cache
def worker_app() -> Celery:
    """The app of ``celery -A hermes_tasks``, settings and ``celeryconfig`` read once.

    A setting that cannot be used ends the process with one line: Celery would print a traceback.
    """
    from hermes_tasks import worker

    try:
        app = make_app(Settings.load(), celeryconfig())
    except ConfigurationError as error:
        raise SystemExit(worker.complain(error)) from None
    worker.install(app)
    _install_tab()
    return app


def _install_tab() -> None:
    """Give the Flower that is about to start its Sessions tab; nothing in any other process."""
    context = click.get_current_context(silent=True)
    if context is not None and context.invoked_subcommand == "flower":
        from hermes_tasks.ops import flower

        flower.install()


def celeryconfig() -> dict[str, Any]:
    """What the module ``celeryconfig`` sets, if there is one, here or on the path."""
    with cwd_in_path():
        if importlib.util.find_spec("celeryconfig") is None:
            return {}
        # Celery would go on without it if something that it imports is missing.
        module = importlib.import_module("celeryconfig")
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def __getattr__(name: str) -> Any:
    if name == "app":
        return worker_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
