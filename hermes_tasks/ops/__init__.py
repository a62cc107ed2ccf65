"""A deployment as its operators see it: one read model, so that every number shown twice agrees.

What is read costs no more with a hundred thousand sessions than with ten: nothing is scanned.
"""

from __future__ import annotations

from hermes_tasks.ops.history import GateSample, Sample, read_history
from hermes_tasks.ops.listing import (
    STATES,
    Page,
    QueuedTurn,
    SessionDetail,
    SessionRow,
    list_sessions,
    read_session,
)
from hermes_tasks.ops.overview import Lag, Overview, read_overview
from hermes_tasks.ops.reports import Gateways, WorkerStatus
from hermes_tasks.transport.histogram import Histogram

__all__ = [
    "STATES",
    "GateSample",
    "Gateways",
    "Histogram",
    "Lag",
    "Overview",
    "Page",
    "QueuedTurn",
    "Sample",
    "SessionDetail",
    "SessionRow",
    "WorkerStatus",
    "list_sessions",
    "read_history",
    "read_overview",
    "read_session",
]
