"""What is installed is what is needed: a gateway imports nothing that the base install lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2]

IMPORT = """
import importlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
for module in {modules!r}:
    importlib.import_module(module)
print(*sys.modules)
"""


def load(*modules: str, visible: set[str] | None = None) -> list[str]:
    """Import modules in a fresh interpreter that sees only some distributions.

    Returns the names of all modules that were loaded.
    """
    hidden = {
        module
        for module, owners in metadata.packages_distributions().items()
        if visible is not None and not visible & set(map(canonical, owners))
    }
    result = subprocess.run(
        [sys.executable, "-c", IMPORT.format(hidden=hidden, modules=modules)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(name: str, *extras: str) -> set[str]:
    """A distribution and everything that pip would install for it."""
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ones = [(canonical(name), frozenset(extras))]
    while open_ones:
        name, asked = open_ones.pop()
        if (name, asked) in seen:
            continue
        seen.add((name, asked))
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in asked or {""}
            ):
                open_ones.append((canonical(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


def test_a_gateway_and_the_commands_need_the_base_install_only() -> None:
    load(
        "hermes_tasks.gateway.sync",
        "hermes_tasks.tasks",
        "hermes_tasks.cli",
        "hermes_tasks.cli.progress",
        "hermes_tasks.replay",
        visible=installed_with("hermes-tasks"),
    )


def test_a_worker_needs_its_extra_only() -> None:
    load(
        "hermes_tasks.honcho.writer",
        "hermes_tasks.worker",
        visible=installed_with("hermes-tasks", "worker"),
    )


def test_the_package_itself_loads_neither_celery_nor_redis() -> None:
    assert not {"celery", "kombu", "redis", "pydantic"} & set(load("hermes_tasks"))


def test_lua_and_the_demo_s_conversation_are_installed() -> None:
    files = resources.files("hermes_tasks")
    assert (files / "cli" / "demo.jsonl").is_file()
    assert (files / "transport" / "push.lua").is_file()
    assert (files / "py.typed").is_file()


def test_constraints_are_plain_versions() -> None:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.]+", line)
