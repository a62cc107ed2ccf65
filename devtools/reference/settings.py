"""Every setting, from :mod:`hermes_tasks.config`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from pydantic.fields import FieldInfo

from devtools.reference import markdown
from hermes_tasks.config import Settings, environment_variable

_HEAD = """\
# Settings

From the environment, the same in gateways and workers. `hermes-tasks config` prints what is in
force and where it comes from, without secrets. A value that cannot be used ends a program with
one line that names the variable, and exit status 2.

"""

_TAIL = """
What is Celery's goes into `celeryconfig.py`, where the worker finds one:

"""


def page() -> str:
    """The page ``reference/settings.md``."""
    with _home_of_nobody():
        rows = [
            (
                markdown.code(environment_variable(name)),
                markdown.code(_default(field)),
                _range(field),
                str(field.description),
            )
            for name, field in Settings.model_fields.items()
        ]
    body = markdown.table(("variable", "default", "may be", "what it does"), rows)
    celeryconfig = Path("celeryconfig.py").read_text(encoding="utf-8")
    return _HEAD + body + _TAIL + markdown.block(celeryconfig, "python")


@contextmanager
def _home_of_nobody() -> Iterator[None]:
    """Default directories as anybody has them, not as on the machine that builds the page."""
    with mock.patch.dict(os.environ, HOME="/~"):
        for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME"):
            os.environ.pop(variable, None)
        yield


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.16g}"
    return str(value).removeprefix("/") if isinstance(value, Path) else str(value)


def _range(field: FieldInfo) -> str:
    """What a value may be, as far as the type says it."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(markdown.code(str(choice)) for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "`true` or `false`"
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        limits.update(
            (name, getattr(limit, name)) for name in ("ge", "le", "pattern") if hasattr(limit, name)
        )
    if limits.get("pattern"):
        return markdown.code(limits["pattern"].strip("^$"))
    return f"{limits['ge']:,} to {limits['le']:,}" if {"ge", "le"} <= limits.keys() else ""
