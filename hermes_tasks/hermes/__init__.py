"""The memory provider ``honcho_tasks`` for the host, hermes-agent.

It puts two things together: the host's bundled Honcho provider, which goes on reading (recall,
context, searches), and :class:`~hermes_tasks.TurnSync`, through which everything is written. What
the host loads is :mod:`hermes_tasks.plugin`.
"""

from __future__ import annotations

NAME = "honcho_tasks"
"""Name of the provider, as ``memory.provider`` in the host's ``config.yaml`` has it."""
