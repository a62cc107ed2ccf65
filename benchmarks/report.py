"""The page ``docs/benchmarks.md`` from the results, with a plot for each table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import Series, Table

_OURS, _OTHERS = "#2563eb", "#94a3b8"


def write(tables: Iterable[Table], machine: dict[str, str], directory: Path) -> Path:
    """Write results, plots and page; returns the page.

    Args:
        tables: what was measured.
        machine: where, and of which versions.
        directory: of the documentation.
    """
    tables = list(tables)
    plots = directory / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine, "tables": [one.to_json() for one in tables]}
    (plots / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for table in tables:
        _plot(table, plots / f"{table.key}.svg")
    page = directory / "benchmarks.md"
    page.write_text(_page(tables, machine))
    return page


def _page(tables: list[Table], machine: dict[str, str]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Side by side with what a user would pick instead, all in one run on one machine, the",
        "contenders in turn. Compare within a table, not between machines. `make bench-full` made",
        "this page; [results.json](benchmarks/results.json) has every value.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        "",
    ]
    missed = [bar for table in tables for bar in table.bars if not bar.is_met]
    bars = sum(len(table.bars) for table in tables)
    lines += [f"{bars - len(missed)} of {bars} bars met.", ""]
    lines += [f"- missed: {bar}" for bar in missed] + [""] * bool(missed)
    for table in tables:
        lines += _section(table)
    return "\n".join(lines).rstrip() + "\n"


def _section(table: Table) -> list[str]:
    lines = [
        f"## {table.title}",
        "",
        f"![{table.title}](benchmarks/{table.key}.svg)",
        "",
        f"| | {table.unit}, median | least | greatest |",
        "|---|---:|---:|---:|",
    ]
    for series in table.series:
        median, spread = series.median, series.spread
        if median is None or spread is None:
            lines.append(f"| {series.name} | not in time | | |")
        else:
            lines.append(f"| {series.name} | {median:,.4g} | {spread[0]:,.4g} | {spread[1]:,.4g} |")
    lines += [""] + [f"- {bar}" for bar in table.bars] + [""] * bool(table.bars)
    if table.note:
        lines += [table.note, ""]
    return lines


def _plot(table: Table, path: Path) -> None:
    """Bars of the medians with their spread; a scale of powers where they differ a hundredfold."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same results give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hermes", "font.size": 9})
    from matplotlib import pyplot

    shown = [series for series in table.series if series.median is not None][::-1]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.3 * len(shown)), layout="constrained")
    figure.patch.set_alpha(0)
    medians = [_median(series) for series in shown]
    errors = [
        [_median(series) - _spread(series)[0] for series in shown],
        [_spread(series)[1] - _median(series) for series in shown],
    ]
    colours = [_OURS if series.name.startswith("hermes_tasks") else _OTHERS for series in shown]
    axes.barh(
        [series.name for series in shown], medians, xerr=errors, color=colours, ecolor="#64748b"
    )
    positive = [value for value in medians if value > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_xscale("log")
    axes.set_xlabel(table.unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _median(series: Series) -> float:
    return series.median or 0.0


def _spread(series: Series) -> tuple[float, float]:
    return series.spread or (0.0, 0.0)
