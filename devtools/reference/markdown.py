"""Small pieces of Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):$", flags=re.MULTILINE)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Text as code within a line; nothing for no text."""
    return f"`{text}`" if text else ""


def block(text: str, language: str = "text") -> str:
    """Text as it stands, in a block of its own."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def prose(text: str) -> str:
    """A docstring as Markdown: references and ``code`` of reStructuredText become code."""
    return _ROLE.sub(r"`\1`", text).replace("``", "`")


def docstring(documented: Any) -> str:
    """The docstring of a function or class as Markdown, its sections as lists."""
    parts = _SECTION.split(prose(inspect.getdoc(documented) or ""))
    body = parts[0].rstrip() + "\n"
    for title, entries in zip(parts[1::2], parts[2::2], strict=True):
        body += f"\n**{title.replace('Args', 'Arguments')}**\n\n{_entries(entries)}"
    return body


def _entries(text: str) -> str:
    """The indented entries of a section as a list; a section of plain sentences stays one."""
    lines = inspect.cleandoc(text).splitlines()
    items: list[str] = []
    for line in lines:
        name, colon, meaning = line.partition(": ")
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        elif colon and re.fullmatch(r"[\w.]+|`[^`]+`", name):
            items.append(f"- `{name.strip('`')}`: {meaning}")
        else:
            items.append(line)
    return "\n".join(items) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
