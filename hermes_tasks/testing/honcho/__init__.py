"""A stand-in for the Honcho service: its rules, and on request its bad days.

It keeps the rules that were measured on server 3.0.12: batches of 1 to 100 that are stored whole or
not at all and stay together, ids, lengths and special tokens that are refused (some with a 500),
422 bodies that echo the conversation, filters, pages, implicit creation, a keep-alive connection
that is closed after a 500. It stores in memory and understands nothing of what it stores.

::

    with HonchoServer() as honcho:
        honcho.control(fail=503, times=2)               # the next two calls fail
        honcho.control(stall=40, after=True, times=1)   # one is stored, its answer comes late
        ...
        assert [entry["content"] for entry in honcho.log("telegram-42")] == ["hi", "hello"]

By hand: ``python -m hermes_tasks.testing.honcho --port 8000``. See :class:`~.faults.Faults` for
everything it can be told. It is a test tool: the product never needs it.
"""

from __future__ import annotations

from importlib.util import find_spec

from hermes_tasks.errors import MissingExtra

if not (find_spec("starlette") and find_spec("uvicorn")):
    raise MissingExtra("the Honcho stand-in needs: pip install 'hermes-tasks[testing]'")

from hermes_tasks.testing.honcho.server import HonchoServer

__all__ = ["HonchoServer"]
