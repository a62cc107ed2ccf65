"""``hermes honcho_tasks``: the queue's status, and every command of ``hermes honcho``.

While another provider than the bundled one is active, the host shows the commands of that one only.
So the bundled ones are here, too, under the name of this provider.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from hermes_tasks.config import Settings
from hermes_tasks.errors import HermesTasksError
from hermes_tasks.hermes import NAME

_BUNDLED_COMMANDS = "plugins.memory.honcho.cli"


def register_cli(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the host's parser for ``hermes honcho_tasks``."""
    commands = _bundled_commands()
    if commands is not None:
        commands.register_cli(parser)
    else:
        actions = parser.add_subparsers(dest="honcho_command")
        actions.add_parser("status", help="Show the configuration and the queue")
    parser.set_defaults(func=honcho_tasks_command)


def honcho_tasks_command(args: argparse.Namespace) -> None:
    """Run one of them."""
    command = getattr(args, "honcho_command", None) or "status"
    commands = _bundled_commands()
    if command == "status":
        _show_status()
    elif command == "setup":
        from hermes_cli.memory_setup import cmd_setup_provider

        cmd_setup_provider(NAME)
        return
    if commands is not None:
        commands.honcho_command(args)


def _show_status() -> None:
    """What is configured, and what waits where."""
    from hermes_tasks.hermes import bundled, setup

    print(f"\n{NAME} status\n" + "─" * 40)
    try:
        for name, value in setup.describe(bundled.load()).items():
            print(f"  {name + ':':16}{value}")
        settings = Settings()
        print(f"  {'outbox files:':16}{_outboxes(settings.outbox_dir)}")
        for name, value in _queue(settings):
            print(f"  {name + ':':16}{value}")
    except HermesTasksError as error:
        print(f"  problem: {error}")
    sys.stdout.flush()


def _queue(settings: Settings) -> list[tuple[str, str]]:
    from hermes_tasks.cli.status import Look, turn_lines

    look = Look.at(settings)
    lines = list(turn_lines(look.overview, look.history))
    lines += [(f"calls to {gate.name}", gate.state) for gate in look.overview.gates]
    lines += [("problem", problem.what) for problem in look.problems]
    return lines


def _outboxes(directory: Path) -> int:
    """How many there are: each is of a process that runs, or of one that left turns behind."""
    return sum(1 for _ in directory.glob("outbox-*.db"))


def _bundled_commands() -> Any:
    """The commands of the bundled provider; ``None`` where the host no longer has it."""
    try:
        return importlib.import_module(_BUNDLED_COMMANDS)
    except ImportError:
        return None
