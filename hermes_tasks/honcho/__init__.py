"""The writing side: from turns to Honcho, once each and in order, as far as Honcho allows.

- :mod:`~hermes_tasks.honcho.watchdogs`: how long each phase of a call may take
- :mod:`~hermes_tasks.honcho.deadline`: those times and the total, kept where the bytes pass
- :mod:`~hermes_tasks.honcho.client`: the Honcho SDK with our deadlines, connections and errors
- :mod:`~hermes_tasks.honcho.failures`: what went wrong in a call, told without quoting it
- :mod:`~hermes_tasks.honcho.writer`: batches, the question what is stored already, poison turns

Only workers need it: the base install, which a gateway has, does without (extra ``worker``).
"""

from __future__ import annotations

from importlib.util import find_spec

from hermes_tasks.errors import MissingExtra

if not find_spec("honcho"):
    raise MissingExtra("writing to Honcho needs its SDK: pip install 'hermes-tasks[worker]'")
