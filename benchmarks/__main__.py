"""``python -m benchmarks``: measure, say which bar was missed, and write the page."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from benchmarks import provider, report
from benchmarks.cases import Plan
from benchmarks.results import Case, Results
from hermes_tasks.testing.servers import EmbeddedValkey

CASES = (
    "enqueue",
    "throughput",
    "ordered",
    "batching",
    "drain",
    "killed",
    "takeover",
    "size",
    "memory",
    "gate",
    "profile",
    "limits",
)
PACKAGES = (
    *("celery", "kombu", "redis", "honcho-ai", "dramatiq", "rq", "huey", "taskiq", "taskiq-redis"),
    *("saq", "streaq", "procrastinate"),
)
HOST_PROVIDER = "provider"


@click.command()
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(1), help="Runs of each contender."
)
@click.option(
    "--full", is_flag=True, help="Every size and every contender everywhere: an hour and a half."
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice((*CASES, HOST_PROVIDER)),
    help="These cases; the page keeps what the others have found before.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="Write benchmarks.md into this directory, and results and plots into one beside it.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Measure nothing: the page of the results there, in today's words.",
)
def main(runs: int, full: bool, only: tuple[str, ...], page: Path | None, again: bool) -> None:
    """Measure hermes_tasks side by side with what a user would pick instead.

    The exit status is 1 when a bar was missed.
    """
    if again:
        if page is None:
            raise click.UsageError("--again needs --page")
        results = report.read(page)
        for case in results.cases:
            case.about = _module(case.name).ABOUT.strip()
        click.echo(f"written: {report.write(results, page)}")
        return
    plan = Plan(runs, full)
    results = Results(machine())
    if only and page is not None and report.is_there(page):
        results.cases = report.read(page).cases
    for name, value in results.machine.items():
        click.echo(f"{name}: {value}")
    chosen = [name for name in CASES if not only or name in only]
    for name in chosen:
        case = measure(name, plan)
        if name in only and not case.tables:
            raise click.UsageError(f"{name} is a case of the full run: add --full")
        results.add(case)
        if page is not None:  # now: the next one may be interrupted
            report.write(results, page)
    cases = [case for case in results.cases if case.name in chosen]
    missed = [bar for bar in Results({}, cases).bars if not bar.is_met]
    click.echo(f"\n[all: {sum(case.seconds for case in cases):.0f} s] {len(missed)} bars missed")
    for bar in missed:
        click.echo(f"  {bar}")
    met = not missed
    if (full and not only) or HOST_PROVIDER in only:
        met &= provider.table(1.0 if full else 0.1)
    if page is not None:
        click.echo(f"\nwritten: {page / report.PAGE}")
    sys.exit(0 if met else 1)


def measure(name: str, plan: Plan) -> Case:
    """One case, said as it goes."""
    module = _module(name)
    date = time.strftime("%Y-%m-%d")
    case = Case(name, module.TITLE, module.ABOUT.strip(), plan.runs, date)
    begin = time.monotonic()
    for table in module.run(plan):
        click.echo(f"\n{table.text()}")
        case.tables.append(table)
    case.seconds = time.monotonic() - begin
    click.echo(f"\n[{name}: {case.seconds:.0f} s]")
    return case


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.cases.{name}")


def machine() -> dict[str, str]:
    """What a figure depends on."""
    with EmbeddedValkey() as server, server.client() as client:
        server_version = client.info("server")["valkey_version"]
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"Valkey {server_version}",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
