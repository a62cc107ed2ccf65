"""``hermes-tasks install-plugin``: tell a Hermes of this package."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import click

from hermes_tasks.hermes import NAME

_INIT = '''\
"""Written by `hermes-tasks install-plugin`. The MemoryProvider itself is in the package."""

from hermes_tasks.plugin import register
'''

_CLI = '''\
"""Written by `hermes-tasks install-plugin`. The commands themselves are in the package."""

from hermes_tasks.plugin.cli import honcho_tasks_command, register_cli
'''


@click.command("install-plugin")
@click.option(
    "--hermes-home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of Hermes; default: $HERMES_HOME, or ~/.hermes.",
)
def install_plugin(hermes_home: Path | None) -> None:
    """Install the memory provider honcho_tasks into a Hermes.

    It writes three small files that import this package, which must be installed in the environment
    of that Hermes. Updating the package updates the provider.

    \b
    Exit status:
      0  done
      2  the directory cannot be written
    """
    home = hermes_home or Path(os.environ.get("HERMES_HOME") or "~/.hermes").expanduser()
    directory = home / "plugins" / NAME
    manifest = files("hermes_tasks.plugin").joinpath("plugin.yaml").read_text(encoding="utf-8")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("__init__.py", _INIT), ("cli.py", _CLI), ("plugin.yaml", manifest)):
            _write(directory / name, text)
    except OSError as error:
        raise click.UsageError(f"{directory} cannot be written: {error.strerror}") from error
    click.echo(f"Installed the memory provider {NAME} in {directory}")
    click.echo(f"Now: hermes memory setup {NAME}")


def _write(path: Path, text: str) -> None:
    """Write a file as a whole: a Hermes may be reading it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
