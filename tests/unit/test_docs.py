"""What README and pages tell of is there: settings, commands, targets, links.

The reference pages are made from the code, and `make docs` fails on a warning. This is for what
people write.
"""

from __future__ import annotations

import inspect
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from devtools.reference import commands, keys, lua, settings
from devtools.reference.hook import PAGES
from hermes_tasks.cli import main
from hermes_tasks.config import Settings, environment_variable
from hermes_tasks.ops import diagnosis

PROJECT = Path(__file__).parents[2]
WRITTEN = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)

each_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)


@each_page
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    known = {environment_variable(name) for name in Settings.model_fields}
    named = set(re.findall(r"\bHERMES_TASKS_[A-Z_]+\b(?!\*)", page.read_text(encoding="utf-8")))
    assert named <= known


@each_page
def test_every_command_that_a_page_shows_is_one(page: Path) -> None:
    for line in shown(page):
        if line.startswith(("kubectl", "docker build")):
            continue  # names of theirs, which are ours
        for words in calls(line, "hermes-tasks"):
            command, options = find(words)
            known = {name for parameter in command.params for name in parameter.opts}
            assert options <= known | {"--help", "-h"}, line


@each_page
def test_every_target_that_a_page_shows_is_one(page: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|\$ )make ([a-z]+)", text):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_the_runbook_speaks_as_the_status_does() -> None:
    runbook = (PROJECT / "docs" / "how-to" / "outage.md").read_text(encoding="utf-8")
    said = inspect.getsource(diagnosis)
    for heading in re.findall(r"^### (.*`.*)$", runbook, re.MULTILINE):
        for words in re.findall(r"`([^`]+)`", heading):
            assert words in said, words


@each_page
def test_every_piece_of_python_on_a_page_can_be_read(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(code, page.name, "exec")


def test_the_site_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MkDocs and its theme warn about themselves
        build(load_config(str(PROJECT / "mkdocs.yml"), site_dir=str(tmp_path)))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(WRITTEN)
    for page in pages:
        # A link may lead elsewhere; nothing that a page needs may come from there.
        fetched = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"([^\"]*)", page.read_text("utf-8")
        )
        assert not [address for address in fetched if "//" in address], page


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    # Those of the pages are checked by `make docs`.
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PROJECT / target).is_file(), target


def test_the_reference_has_every_setting_command_key_and_script() -> None:
    for name in Settings.model_fields:
        assert f"| `{environment_variable(name)}` |" in settings.page()
    for name in main.commands:
        assert f"## hermes-tasks {name}\n" in commands.page()
    shared = {name for _, name, _ in lua.PACKAGES}
    for script in (PROJECT / "hermes_tasks").rglob("*.lua"):
        assert (f"### {script.name}\n" in lua.page()) == (script.name not in shared)
    assert "`{hermes}:session:SESSION:inflight` | list |" in keys.page()


def test_a_reference_page_shows_nothing_of_the_machine_it_is_made_on() -> None:
    for make in PAGES.values():
        assert str(Path.home()) not in make().replace("~/", "")


def shown(page: Path) -> Iterator[str]:
    """The command lines in the console blocks of a page, those that go on put together."""
    for block in CONSOLE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


def calls(line: str, program: str) -> Iterator[list[str]]:
    """The arguments of each call of the program in a command line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] | None = None
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif word == program:
            words = []


def find(words: list[str]) -> tuple[click.Command, set[str]]:
    """The command that the arguments name, and the options given to it."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"no command {name!r} in {' '.join(words)}"
        command = command.commands[name]
    return command, {word.partition("=")[0] for word in rest if word.startswith("-")}
