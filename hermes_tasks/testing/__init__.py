"""What tests, ``hermes-tasks up`` and ``hermes-tasks demo`` run against: real servers, one machine.

- :mod:`~hermes_tasks.testing.servers`: Redis-compatible servers as child processes
- :mod:`~hermes_tasks.testing.workers`: Celery workers as child processes
- :mod:`~hermes_tasks.testing.honcho`: a stand-in for the Honcho service that can misbehave
- :mod:`~hermes_tasks.testing.waiting`: wait for a condition with a deadline

Nothing is imported here: each part needs an extra of its own.
"""

from __future__ import annotations
