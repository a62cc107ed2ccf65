"""Celery's part of a deployment's settings: a file of this name, where the worker finds it.

Everything here is optional: the defaults stand in ``hermes_tasks/app.py``, each with its reason,
and the environment (see ``hermes-tasks config``) has the last word.
"""

from __future__ import annotations

#: Further options of the Redis transport; ours stay. What gateways need as well, such as Sentinel's
#: master_name or a global_keyprefix, belongs into HERMES_TASKS_BROKER_OPTIONS.
# broker_transport_options = {"health_check_interval": 10, "session_max_attempts": 8}

#: Keep states and results of turns for ``AsyncResult(turn_id)``. Off: each costs a write to Redis.
# result_backend = "redis://127.0.0.1:6379/1"

#: Slots of a worker: sessions it writes at the same time. The writing is waiting, so many fit.
# worker_pool = "threads"
# worker_concurrency = 32

#: On SIGQUIT, or a second Ctrl-C: seconds to let running writes end.
worker_soft_shutdown_timeout = 35.0
