"""Every key in Redis: names from :mod:`hermes_tasks.transport.keys`, types from the Lua headers."""

from __future__ import annotations

import inspect
import re
from functools import cached_property
from importlib.resources import files

from devtools.reference import lua, markdown
from hermes_tasks.transport.keys import Names

_HEAD = """\
# Keys in Redis

All keys of a deployment share the hash tag `{hermes}`, where `hermes` is `HERMES_TASKS_PREFIX`:
one slot of a cluster, one pattern for an ACL. Below, `SESSION` is `backend:workspace:session`,
each made a valid id, and `GATE` is `backend:workspace`. Times are milliseconds of Redis's own
clock. Celery has its own keys beside these (`_kombu.binding.*`, `unacked*`), for remote control
and tasks that are not turns.

"""

#: "   1 session   hash    its fields are below", "   7, 9, 11     zset  the same samples"
_KEY = re.compile(r"^ {1,4}(\d+(?:, \d+)*) +(?:\w+ +)?(hash|list|set|zset|stream) +(\S.*)$")
_NAMES = Names("hermes")


def page() -> str:
    """The page ``reference/keys.md``."""
    session = _table("hermes_tasks.transport", "common.lua", _NAMES.session("SESSION"))
    gate = _table("hermes_tasks.gate", "gate.lua", _NAMES.gate("backend:workspace"))
    return (
        f"{_HEAD}## Of sessions\n\n{session[0]}\n{markdown.block(session[1])}\n"
        f"## Of a gate\n\n{gate[0]}\n{markdown.block(gate[1])}\n{_others()}"
    )


def _table(package: str, shared: str, names: tuple[str, ...]) -> tuple[str, str]:
    """A table of the keys that every script of a package gets, and the rest of their header.

    Raises:
        ValueError: the header does not tell of as many keys as there are.
    """
    told: dict[int, tuple[str, str]] = {}
    last: list[int] = []
    lines = lua.header(files(package) / shared).splitlines()
    for at, line in enumerate(lines):
        if found := _KEY.match(line):
            numbers, kind, meaning = found.groups()
            last = [int(number) for number in numbers.split(", ")]
            told.update(dict.fromkeys(last, (kind.replace("zset", "sorted set"), meaning)))
        elif last and line.startswith("     "):
            kind, meaning = told[last[0]]
            told.update(dict.fromkeys(last, (kind, f"{meaning} {line.strip()}")))
        elif last:
            rest = "\n".join(lines[at:])
            break
    if sorted(told) != list(range(1, len(names) + 1)):
        raise ValueError(f"{shared} tells of keys {sorted(told)}, and there are {len(names)}")
    rows = [
        (markdown.code(name), kind, meaning.replace("->", "→"))
        for name, (kind, meaning) in zip(names, (told[n] for n in sorted(told)), strict=True)
    ]
    return markdown.table(("key", "type", "holds"), rows), rest.strip("\n")


def _others() -> str:
    """The keys that no shared header tells of: those of single scripts, with their docstrings."""
    shared = {*_NAMES.session("SESSION"), *_NAMES.gate("backend:workspace")}
    rows = []
    for name, member in vars(Names).items():
        if not isinstance(member, cached_property):
            continue
        key, meaning = getattr(_NAMES, name), inspect.getdoc(member.func)
        if isinstance(key, str) and key not in shared and key.startswith("{") and meaning:
            rows.append((markdown.code(key), markdown.prose(meaning)))
    rows = [row for row in rows if row[0] != markdown.code(_NAMES.run_queue)]
    if not rows:
        return ""
    return f"## Others\n\n{markdown.table(('key', 'holds'), rows)}"
