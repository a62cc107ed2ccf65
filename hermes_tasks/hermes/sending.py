"""The one sending side of a process, shared by the providers of all its sessions."""

from __future__ import annotations

import os
import threading

from hermes_tasks.config import Settings
from hermes_tasks.gateway.sync import TurnSync

_lock = threading.Lock()
_sync: TurnSync | None = None
_users = 0


def begin() -> TurnSync:
    """Use the sending side; :func:`end` gives it back.

    While another is being closed this waits for it: what that one leaves goes before what is new.

    Raises:
        ConfigurationError: a setting cannot be used.
    """
    global _sync, _users
    with _lock:
        if _sync is None:
            _sync = TurnSync(settings=Settings())
        _users += 1
        return _sync


def end(timeout: float) -> None:
    """Give it back. The last to do so closes it, within ``timeout`` seconds."""
    global _sync, _users
    with _lock:
        _users -= 1
        if not _users and _sync is not None:
            closing, _sync = _sync, None
            closing.close(timeout)


def _after_fork() -> None:
    """The lock may have been held by a thread that is not in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
