"""The package that hermes-agent loads as the memory provider ``honcho_tasks``.

A host takes it from ``$HERMES_HOME/plugins/honcho_tasks``, where ``hermes-tasks install-plugin``
puts a file that imports it, or, where the host knows entry points, from here. Such a host executes
every file of this directory by itself: there is nothing else in it for that reason.
"""

from __future__ import annotations

from typing import Any


def register(context: Any) -> None:
    """Give the host its MemoryProvider."""
    from hermes_tasks.hermes.provider import HonchoTasksProvider

    context.register_memory_provider(HonchoTasksProvider())
