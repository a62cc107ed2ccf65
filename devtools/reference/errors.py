"""The tree of errors, from :mod:`hermes_tasks.errors` and the exit statuses of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from devtools.reference import markdown
from hermes_tasks import errors
from hermes_tasks.cli.group import exit_status

_HEAD = """\
# Errors

Every error that this package raises on purpose, in one tree; `from hermes_tasks import …` has
them all. What Redis, Kombu or the Honcho SDK raise is translated, and chained as the cause.

"""


def page() -> str:
    """The page ``reference/errors.md``."""
    _, _, text = (inspect.getdoc(errors) or "").partition("::\n\n")
    drawing, _, rest = text.partition("\n\n")
    body = "\n".join(
        f"## {kind.__name__}\n\n{_place(kind)}\n\n{markdown.docstring(kind)}"
        for kind in _tree(errors.HermesTasksError)
    )
    return _HEAD + f"{markdown.block(_plain(drawing))}\n{markdown.prose(rest)}\n\n{body}"


def _plain(drawing: str) -> str:
    return inspect.cleandoc(drawing).replace("``", "")


def _tree(kind: type[errors.HermesTasksError]) -> Iterator[type[errors.HermesTasksError]]:
    """The error and those below it, in the order in which they are defined."""
    yield kind
    for below in kind.__subclasses__():
        # Others may stand in the modules that know what they are about.
        if below.__module__ == errors.__name__:
            yield from _tree(below)


def _place(kind: type[errors.HermesTasksError]) -> str:
    parents = ", ".join(f"`{parent.__name__}`" for parent in kind.__bases__)
    status = exit_status(kind.__new__(kind))
    return f"A kind of {parents}. A command that it ends exits with status {status}."
