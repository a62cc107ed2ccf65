"""``hermes-tasks config``: every setting, what is in force, and where it comes from."""

from __future__ import annotations

import click

from hermes_tasks.cli.output import console, json_option, print_json, shown
from hermes_tasks.config import Settings


@click.command()
@json_option
def config(as_json: bool) -> None:
    """List every setting with its value, secrets hidden, and its source."""
    from rich.padding import Padding
    from rich.text import Text

    rows = Settings().rows()
    if as_json:
        print_json(rows)
        return
    out = console()
    for row in rows:
        value = shown("(unset)" if row.value is None else row.value, "bold")
        out.print(Text.assemble(row.variable, " = ", value, f"  ({row.source})"))
        out.print(Padding(Text(row.description, "dim"), (0, 0, 0, 4), expand=False))
