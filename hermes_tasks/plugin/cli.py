"""``hermes honcho_tasks …``: see :mod:`hermes_tasks.hermes.commands`."""

from __future__ import annotations

from hermes_tasks.hermes.commands import honcho_tasks_command, register_cli

__all__ = ["honcho_tasks_command", "register_cli"]
