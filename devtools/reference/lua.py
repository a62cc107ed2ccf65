"""Every Lua script: the contract on top of each, as it stands."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from devtools.reference import markdown

#: Each package with scripts, the text that it puts in front of them, and what they work on.
PACKAGES = (
    ("hermes_tasks.transport", "common.lua", "Sessions"),
    ("hermes_tasks.gate", "gate.lua", "The gate"),
    ("hermes_tasks.gateway", "", "Gateways"),
    ("hermes_tasks.ops", "", "What workers tell of a deployment"),
)

_HEAD = """\
# Lua scripts

Every change of state that processes share is one script, on the time of Redis. A script is run by
the SHA1 of its text, so workers of two versions can run side by side, each with its own. Below
are the contracts that stand on top of the files. What all scripts of a kind share, their keys and
fields, is in [keys](keys.md).

"""


def page() -> str:
    """The page ``reference/lua.md``."""
    text = _HEAD
    for package, shared, title in PACKAGES:
        text += f"## {title}\n\nIn `{package.replace('.', '/')}/`.\n\n"
        for script in scripts(package):
            if script.name != shared:
                text += f"### {script.name}\n\n{markdown.block(header(script))}\n"
    return text


def scripts(package: str) -> list[Traversable]:
    """The Lua files of a package, by name."""
    return sorted(
        (file for file in files(package).iterdir() if file.name.endswith(".lua")),
        key=lambda file: file.name,
    )


def header(script: Traversable) -> str:
    """The comment on top of a script.

    Raises:
        ValueError: it has none.
    """
    lines: list[str] = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").removeprefix(" "))
    if not lines:
        raise ValueError(f"{script.name} has no contract on top")
    return "\n".join(lines)
