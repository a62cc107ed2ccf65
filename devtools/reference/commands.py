"""Every command, from the click group that runs them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from devtools.reference import markdown
from hermes_tasks.cli import main

_HEAD = """\
# Commands

`hermes-tasks COMMAND --help` says the same. What a command needs to know of a deployment comes
from its [settings](settings.md).

"""


def page() -> str:
    """The page ``reference/commands.md``."""
    return _HEAD + "\n".join(
        _command(context) for context in _contexts(main, "hermes-tasks", parent=None)
    )


def _contexts(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[click.Context]:
    """A context for the command, and for each below it, in the order of `--help`."""
    context = click.Context(command, info_name=name, parent=parent)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            if not found.hidden:
                yield from _contexts(found, below, context)


def _command(context: click.Context) -> str:
    command = context.command
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    depth = "##" if len(context.command_path.split()) < 3 else "###"
    text = f"{depth} {context.command_path}\n\n{markdown.block(usage)}\n{_help(command)}"
    if rows := [row for parameter in command.params if (row := _parameter(parameter, context))]:
        text += "\n" + markdown.table(("option", "what it does"), rows)
    return text


def _help(command: click.Command) -> str:
    """The help as Markdown: paragraphs that click leaves as they are (``\\b``) become blocks."""
    text = inspect.cleandoc(command.help or command.short_help or "")
    paragraphs = text.split("\n\n")
    return "\n".join(
        _unwrapped(paragraph.removeprefix("\b\n"))
        if paragraph.startswith("\b")
        else f"{paragraph}\n"
        for paragraph in paragraphs
    )


def _unwrapped(paragraph: str) -> str:
    """A title and a table of plain text: the title as a sentence, the table as a block."""
    first, newline, rest = paragraph.partition("\n")
    if newline and first.endswith(":") and not first.startswith(" "):
        return f"{first}\n\n{markdown.block(inspect.cleandoc(rest))}"
    return markdown.block(inspect.cleandoc(paragraph))


def _parameter(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    if record is None:  # an argument, which the usage line shows
        return None
    name, meaning = record
    return markdown.code(name), re.sub(r"\s*\[(.*?)\]", r" (\1)", meaning)
