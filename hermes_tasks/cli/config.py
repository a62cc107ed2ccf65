"""``hermes-tasks config``: every setting, what is in force, and where it comes from."""

from __future__ import annotations

import click

from hermes_tasks.cli.output import console, json_option, print_json, shown, table
from hermes_tasks.config import Settings


@click.command()
@json_option
def config(as_json: bool) -> None:
    """List every setting with its value, secrets hidden, and its source."""
    from rich.text import Text

    rows = Settings().rows()
    if as_json:
        print_json(rows)
        return
    made = table("", "setting", "value", "from", fold=("setting", "value"))
    for row in rows:
        made.add_row(
            Text.assemble((row.variable, "bold"), "\n", (row.description, "dim")),
            shown("(unset)" if row.value is None else row.value),
            row.source,
        )
    console().print(made)
