"""Existing conversations, sent through the queue.

:mod:`.sources` reads them, :mod:`.runner` sends them.
"""

from __future__ import annotations

from hermes_tasks.replay.runner import Replay, Summary
from hermes_tasks.replay.sources import Source, open_source

__all__ = ["Replay", "Source", "Summary", "open_source"]
