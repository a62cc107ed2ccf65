"""One gate for all workers: whether a call to a backend may start now, and how long it may take.

The state is in Redis, one gate per backend and workspace; every decision is one script. A session
that may not call is held: it stands in one queue, without lease and slot, until it is its turn.
"""

from __future__ import annotations

from hermes_tasks.gate.gate import (
    ClassStatus,
    Gate,
    GateStatus,
    Maintenance,
    known_gates,
    read_gates,
    release_all,
)
from hermes_tasks.gate.policy import Policy
from hermes_tasks.gate.rules import Ended, Go, Hold, Release, State, Why

__all__ = [
    "ClassStatus",
    "Ended",
    "Gate",
    "GateStatus",
    "Go",
    "Hold",
    "Maintenance",
    "Policy",
    "Release",
    "State",
    "Why",
    "known_gates",
    "read_gates",
    "release_all",
]
