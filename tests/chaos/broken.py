"""Three ways to break the product on purpose, to see that the checker notices.

They are switches in a process of a test (see ``inside/sitecustomize.py``); the product has none.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

LOOK_SECONDS = 0.2
"""How long a gateway takes between looking at a queue and adding to it: a window for a race. With
more turns than one in that time it is always between the two, so two gateways are sure to meet."""

CALL_SECONDS = 0.15
"""How long a worker that has a session takes until it asks whether it may call: another one."""


def turn(switch: str) -> None:
    """Break this process. ``switch`` is one of :data:`SWITCHES`."""
    SWITCHES[switch]()


def no_fencing() -> None:
    """A worker writes whether or not it still has the session."""
    from hermes_tasks import guard
    from hermes_tasks.errors import LeaseLost
    from hermes_tasks.transport import SessionLease

    begin, ask = guard.GatedLease.call, guard.GatedLease._admit

    def call(self: Any, *arguments: Any, **more: Any) -> Any:
        time.sleep(CALL_SECONDS)
        return begin(self, *arguments, **more)

    def admit(self: Any, *arguments: Any) -> Any:
        try:
            return ask(self, *arguments)
        except LeaseLost:
            return None  # as if the gate had not answered

    _replace(guard.GatedLease, "call", call)
    _replace(guard.GatedLease, "_admit", admit)
    _replace(SessionLease, "check", lambda _: None)


def no_question() -> None:
    """A worker does not look for what an earlier call may have stored."""
    from hermes_tasks.honcho.client import HonchoClient

    _replace(HonchoClient, "held", lambda *_, **__: set())
    _replace(HonchoClient, "concluded", lambda *_, **__: Counter())


def no_atomic_bound() -> None:
    """The bound of a queue is not kept by the script that adds to it, but by looking before."""
    from hermes_tasks.gateway import sender
    from hermes_tasks.transport.pushing import push_all

    def push(store: Any, pushes: Any) -> list[Any]:
        unbounded = replace(store, options=replace(store.options, waiting_limit=10**9))
        answers: list[Any] = []
        for each in pushes:
            _, _, waiting, backlog, *_ = store.names.session(each.session)
            is_full = store.client.llen(waiting) >= store.options.waiting_limit
            time.sleep(LOOK_SECONDS)
            if is_full:
                store.client.rpush(backlog, store.client.lpop(waiting))
            answers += push_all(unbounded, [each])
        return answers

    _replace(sender, "push_all", push)


def _replace(owner: Any, name: str, by: object) -> None:
    """Put something in the place of what must be there."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name}: the switch must follow the product")
    setattr(owner, name, by)


SWITCHES = {"fencing": no_fencing, "question": no_question, "bound": no_atomic_bound}
