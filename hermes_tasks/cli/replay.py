"""``hermes-tasks replay``: existing conversations through the queue, until they are written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.options import SPAN
from hermes_tasks.cli.output import json_option, print_json
from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from hermes_tasks.replay import Summary


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--workspace", help="Honcho workspace.  [env: HONCHO_WORKSPACE_ID]")
@click.option(
    "--user",
    default="user",
    show_default=True,
    help="Peer for users of a state.db whose session names none.",
)
@click.option(
    "--assistant",
    default="hermes",
    show_default=True,
    help="Peer for the assistant of a state.db.",
)
@click.option(
    "--timeout",
    type=SPAN,
    metavar="SECONDS",
    help="Give up waiting after this long; what was sent stays queued.  [default: never]",
)
@json_option
def replay(
    source: Path,
    workspace: str | None,
    user: str,
    assistant: str,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Send the conversations in SOURCE through the queue and wait until they are written.

    SOURCE is a Hermes state.db, which is only read (messages of tools and the system, and rows
    that were rewound or compacted, are left out), or a file of JSON lines:

    \b
      {"session": "telegram:42", "peer": "igor", "content": "hi",
       "created_at": "2026-01-31T12:00:00+00:00"}        (created_at is optional)

    Run it again whenever you like: what was written is not written twice. Workers must be running:
    `celery -A hermes_tasks worker`, or `hermes-tasks up`.

    \b
    Exit status:
      0  every turn is written
      1  turns were given up (see the reasons), or not written in time
      2  SOURCE cannot be read, or not to its end; what came before the fault is written
      3  Redis does not answer, or refuses us; run again to go on
    130  stopped by Ctrl-C; run again to go on
    """
    from hermes_tasks.app import make_app
    from hermes_tasks.cli.progress import ReplayProgress, print_summary
    from hermes_tasks.errors import SourceError
    from hermes_tasks.replay import Replay, open_source
    from hermes_tasks.replay.sources import Target

    settings = Settings.load(honcho_workspace_id=workspace)
    show = _print_json if as_json else print_summary
    target = Target(settings.honcho_workspace_id, settings.backend, user, assistant)
    conversations = open_source(source, target)
    with ReplayProgress() as progress:
        running = Replay(
            make_app(settings, set_as_current=False),
            settings,
            on_progress=progress.update,
            timeout=timeout,
        )
        try:
            summary = running.run(conversations)
        except (SourceError, KeyboardInterrupt) as stopped:
            progress.stop()
            show(running.summary)
            if isinstance(stopped, KeyboardInterrupt):
                click.echo("what was sent stays queued; run again to send the rest", err=True)
            raise
    show(summary)
    if summary.given_up:
        raise click.exceptions.Exit(group.INCOMPLETE)


def _print_json(summary: Summary) -> None:
    print_json(dataclasses.asdict(summary) | {"written": summary.written})
