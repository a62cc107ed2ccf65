"""``hermes-tasks``: the commands of an operator, one file each.

Exit status, of every command:

== ====================================================================================
0  done
1  not all turns were written (given up, out of time, the worker ended), or none are now, or
   something is wrong
2  wrong usage: an argument, a setting or a source that cannot be used
3  the broker: Redis does not answer, refuses us, or its port or directory is in use
4  Honcho does not answer or refuses us
== ====================================================================================
"""

from __future__ import annotations

import click

from hermes_tasks.cli.check import check
from hermes_tasks.cli.config import config
from hermes_tasks.cli.dead import dead
from hermes_tasks.cli.demo import demo
from hermes_tasks.cli.exporter import exporter
from hermes_tasks.cli.gates import gate
from hermes_tasks.cli.group import Group
from hermes_tasks.cli.health import health
from hermes_tasks.cli.install_plugin import install_plugin
from hermes_tasks.cli.replay import replay
from hermes_tasks.cli.sessions import sessions
from hermes_tasks.cli.status import status
from hermes_tasks.cli.up import up


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermes-tasks")
def main() -> None:
    """Conversation turns from Hermes to Honcho, in order, through Celery on Redis.

    Settings come from the environment: `hermes-tasks config` lists them. Workers are Celery
    workers: `celery -A hermes_tasks worker`.

    \b
    Exit status:
      0  done
      1  not all turns were written, Honcho takes none now, or something is wrong
      2  wrong usage: an argument, a setting or a source that cannot be used
      3  the broker does not answer, or refuses us
      4  Honcho does not answer, or refuses us
    """


for command in (
    *(status, sessions, gate, dead, check, health, exporter),
    *(config, replay, install_plugin, up, demo),
):
    main.add_command(command)
