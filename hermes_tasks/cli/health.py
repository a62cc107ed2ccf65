"""``hermes-tasks health``: one question for a probe, answered soon by an exit status."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import view_of
from hermes_tasks.cli.output import json_option, print_json, printable
from hermes_tasks.config import Settings
from hermes_tasks.errors import BrokerUnavailable

if TYPE_CHECKING:
    from hermes_tasks.ops.reports import WorkerStatus


@click.command()
@click.option(
    "--worker",
    metavar="NAME",
    help="Name of the worker's node, as `celery -n` has it.  [default: every one of this host]",
)
@click.option("--any", "anywhere", is_flag=True, help="Any worker of the deployment will do.")
@click.option(
    "--liveness",
    is_flag=True,
    help="Be well while Redis is away: to restart a worker does not bring it back.",
)
@json_option
def health(worker: str | None, anywhere: bool, liveness: bool, as_json: bool) -> None:
    """Say whether Redis answers and runs our scripts, and a worker takes turns.

    For probes. A worker that runs and takes no turns is not well: its consumer was cancelled, or
    it hangs. One whose slots are all at work is.

    \b
    Exit status:
      0  well
      1  the worker takes no turns, or is not there
      2  wrong usage
      3  Redis does not answer, or refuses us (with --liveness: 0)
    """
    if worker and anywhere:
        raise click.UsageError("--worker names one, --any means no one in particular")
    try:
        workers = _workers(Settings.load())
    except BrokerUnavailable as error:
        if not liveness:
            raise
        _say(True, f"{error}; that is no fault of a worker", (), as_json)
        return
    asked = workers if anywhere else _named(workers, worker)
    why = _unwell(asked, worker, anywhere)
    if why:
        _say(False, why, asked, as_json)
        click.get_current_context().exit(group.INCOMPLETE)
    names = ", ".join(one.name for one in asked if one.consuming)
    _say(True, f"turns are taken by {names}", asked, as_json)


def _workers(settings: Settings) -> tuple[WorkerStatus, ...]:
    from hermes_tasks.ops.reports import WorkerStatus
    from hermes_tasks.transport.reading import read_counts

    with view_of(settings) as store:
        return WorkerStatus.all_of(read_counts(store))


def _named(workers: Sequence[WorkerStatus], name: str | None) -> list[WorkerStatus]:
    """The worker of this name, or those of this host."""
    from celery.utils.nodenames import default_nodename, host_format

    if name is None:
        here = f"@{socket.gethostname()}"
        return [worker for worker in workers if worker.name.endswith(here)]
    whole = host_format(default_nodename(name))
    return [worker for worker in workers if worker.name == whole]


def _unwell(asked: Sequence[WorkerStatus], name: str | None, anywhere: bool) -> str:
    """What is wrong with the workers that were asked for; empty if nothing is."""
    from hermes_tasks.ops.diagnosis import is_silent
    from hermes_tasks.ops.words import duration

    where = "" if anywhere else f" {name}" if name else f" on {socket.gethostname()}"
    if not asked:
        return f"no worker{where} has said anything for ten minutes"
    silent = [worker for worker in asked if is_silent(worker)]
    idle = [worker for worker in asked if worker not in silent and not worker.consuming]
    # One that was renamed, or is not needed any more, is silent beside one that is well.
    if len(silent) == len(asked):
        latest = min(asked, key=lambda worker: worker.seen)
        return f"{latest.name} has said nothing for {duration(latest.seen)}"
    if idle and not (anywhere and len(idle) + len(silent) < len(asked)):
        return f"{idle[0].name} runs, and takes no turns"
    return ""


def _say(healthy: bool, said: str, workers: Sequence[WorkerStatus], as_json: bool) -> None:
    if as_json:
        print_json({"healthy": healthy, "why": said, "workers": list(workers)})
    else:
        click.echo(printable(f"{'well' if healthy else 'not well'}: {said}"))
