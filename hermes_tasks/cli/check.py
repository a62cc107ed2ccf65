"""``hermes-tasks check``: whether a deployment is sound, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hermes_tasks.cli import group
from hermes_tasks.cli.broker import sessions_of, view_of
from hermes_tasks.cli.output import console, json_option, print_json, printable, shown
from hermes_tasks.cli.output import table as new_table
from hermes_tasks.config import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from hermes_tasks.gate.check import Report
    from hermes_tasks.transport.check import Finding, Repaired


@click.command()
@click.option("--repair", is_flag=True, help="Put right what is found, session by session.")
@json_option
def check(repair: bool, as_json: bool) -> None:
    """Look at every session and gate of a running deployment for what must not be.

    Nothing is stopped and nothing is changed, and no text is read. What is found is looked at again
    after seven seconds, so that what only moves on is not reported. With --repair, messages keep
    their order and none is lost; all of a repaired session are asked about before they are written
    again, and a session that a worker has is left alone.

    \b
    Exit status:
      0  sound, or repaired
      1  something is wrong, or still is
      2  wrong usage
      3  Redis does not answer, or refuses us
    """
    report, repaired, left = checked(Settings.load(), repair)
    if as_json:
        print_json(_as_json(report, repaired, left))
    else:
        _show(report, repaired, left)
    if left:
        click.get_current_context().exit(group.INCOMPLETE)


def checked(
    settings: Settings, repair: bool
) -> tuple[Report, dict[str, Repaired], tuple[Finding, ...]]:
    """What is wrong with a deployment, what was repaired of it, and what still is wrong.

    Raises:
        BrokerUnavailable: Redis does not answer, or refuses us.
    """
    from hermes_tasks.gate import Policy
    from hermes_tasks.gate.check import Check

    with (sessions_of if repair else view_of)(settings) as store:
        checking = Check(store, Policy.from_settings(settings))
        report = checking.run()
        if not repair or not report.findings:
            return report, {}, report.findings
        repaired = checking.repair(report.findings)
        return report, repaired, checking.run().findings


def _show(report: Report, repaired: dict[str, Repaired], left: tuple[Finding, ...]) -> None:
    """For a person."""
    out = console()
    if report.findings:
        out.print(table_of(report.findings))
    for line in _repairs(repaired):
        click.echo(printable(line))
    if repaired and left:
        out.print(table_of(left, "Still wrong"))
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.states.items()))
    click.echo(
        f"{_verdict(report, left)}. Sessions: {sum(report.states.values())}"
        f"{f' ({states})' if states else ''}, turns queued: {report.queued}, "
        f"gates: {report.gates}, dead letters: {report.dead}."
    )
    if report.dead:
        click.echo("`hermes-tasks dead list` shows the dead letters.")


def _verdict(report: Report, left: tuple[Finding, ...]) -> str:
    if not report.findings:
        return "Sound"
    return f"Faults: {len(left)}" if left else "Repaired"


def _repairs(repaired: dict[str, Repaired]) -> Iterator[str]:
    for session, done in repaired.items():
        if done.state == "leased":
            yield f"{session}: a worker has it, so it was left alone; try again later"
            continue
        buried = f", unreadable and now dead letters: {done.unreadable}" if done.unreadable else ""
        yield f"{session}: repaired, now {done.state}, turns queued: {done.queued}{buried}"


def table_of(findings: tuple[Finding, ...], title: str = "Wrong") -> Table:
    """Findings for a person."""
    columns = ("session or gate", "fault", "what")
    made = new_table(title, *columns, fold=("session or gate", "what"))
    for finding in findings:
        made.add_row(*map(shown, (finding.where, finding.fault, finding.text)))
    return made


def _as_json(
    report: Report, repaired: dict[str, Repaired], left: tuple[Finding, ...]
) -> dict[str, object]:
    return {
        "sessions": dict(report.states),
        "queued": report.queued,
        "gates": report.gates,
        "dead": report.dead,
        "findings": [
            {"where": found.where, "fault": found.fault, "text": found.text}
            for found in report.findings
        ],
        "repaired": {
            name: {"state": done.state, "queued": done.queued, "unreadable": done.unreadable}
            for name, done in repaired.items()
        },
        "left": len(left),
    }
