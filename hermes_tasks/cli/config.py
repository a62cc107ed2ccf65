"""``hermes-tasks config``: every setting, what is in force, and where it comes from."""

from __future__ import annotations

import dataclasses
import json

import click

from hermes_tasks.config import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def config(as_json: bool) -> None:
    """List every setting with its value, passwords hidden, and its source."""
    rows = Settings().rows()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return

    shown = [
        (row.variable, "(unset)" if row.value is None else str(row.value), row.source)
        for row in rows
    ]
    variable, value = (max(len(line[column]) for line in shown) for column in (0, 1))
    for row, line in zip(rows, shown, strict=True):
        click.echo(f"{line[0]:<{variable}}  {line[1]:<{value}}  {line[2]}")
        click.echo(f"    {row.description}")
