"""The page ``docs/benchmarks.md`` from the results, with a plot for each table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plots
from benchmarks.results import Case, Figure, Results, Series, Table, number, percent

PAGE, RESULTS = "benchmarks.md", "results.json"
_INTRODUCTION = """
hermes_tasks side by side with what you would pick instead, all on one machine, the contenders of a
table in turn: whatever else the machine did met all of them alike. Figures of another machine
differ; how they compare does much less. `make bench` measures it on yours in ten minutes.
"""
_HOW_TO_READ = """
- A figure is the median of the runs; the least and the greatest stand beside it. Where those
  overlap, two contenders are alike.
- **x** is the median as a multiple of that of the first row, which is hermes_tasks wherever it is
  compared with others.
- **Of the limit** is how near it comes to what the machine can do at all: the least that anyone
  has to do is measured alone, in turn with the contenders. The share of a time is the time of the
  limit over that of the contender.
- **One core**, **two cores**: client and server are pinned. On one core a round trip to Redis is
  several times cheaper, so what waits for round trips is measured both ways. Where many processes
  work together nothing is pinned.
- "Not in time" was still at work when it was given up.
"""
_CONTENDERS = """
Each is set up as its documentation tells somebody who does not want to lose what was sent:
acknowledged when done, where there is such a choice, no results kept, as many slots as hermes_tasks
has. How is in the repository, a file for each in `benchmarks/peers`.
"""


def write(results: Results, directory: Path) -> Path:
    """Write page, results and plots; returns the page.

    Args:
        results: what was measured.
        directory: of the documentation.
    """
    beside = directory / "benchmarks"
    beside.mkdir(parents=True, exist_ok=True)
    for old in beside.glob("*.svg"):
        old.unlink()
    (beside / RESULTS).write_text(json.dumps(results.to_json(), indent=1) + "\n")
    for case in results.cases:
        for table in case.tables:
            (beside / f"{table.key}.svg").write_text(plots.draw(table))
    path = directory / PAGE
    path.write_text(page(results))
    return path


def read(directory: Path) -> Results:
    """What :func:`write` has left there."""
    return Results.from_json(json.loads((directory / "benchmarks" / RESULTS).read_text()))


def is_there(directory: Path) -> bool:
    """Whether :func:`write` has left something there."""
    return (directory / "benchmarks" / RESULTS).exists()


def page(results: Results) -> str:
    """The page, in Markdown."""
    missed = [bar for bar in results.bars if not bar.is_met]
    lines = [
        "# Benchmarks",
        _INTRODUCTION,
        f"**{len(results.bars) - len(missed)} of {len(results.bars)} bars met.**"
        + " Missed:" * bool(missed),
        "",
        *(f"- {bar.name}: {bar.reached}, must be {bar.must}" for bar in missed),
        *[""] * bool(missed),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in results.machine.items()),
        "",
        f"All values are in [{RESULTS}](benchmarks/{RESULTS}).",
        "",
        "## How to read it",
        _HOW_TO_READ.rstrip(),
        _CONTENDERS,
        *_bars(results.cases),
    ]
    for case in results.cases:
        if not case.tables:
            continue  # one that only a full run has
        lines += [f"## {case.title}", "", case.about, "", _when(case), ""]
        for table in case.tables:
            lines += _section(table)
    return "\n".join(lines).rstrip() + "\n"


def _when(case: Case) -> str:
    took = f"{case.seconds / 60:.0f} minutes" if case.seconds >= 90 else f"{case.seconds:.0f} s"
    return f"Measured on {case.date} in {took}, {case.runs} runs of each."


def _bars(cases: list[Case]) -> Iterator[str]:
    yield from ("## Bars", "", "What each release must reach.", "")
    yield from ("| | | reached | must be | |", "|---|---|---:|---:|---|")
    for case in cases:
        for table in case.tables:
            for bar in table.bars:
                met = "met" if bar.is_met else "**missed**"
                yield f"| {case.title} | {bar.name} | {bar.reached} | {bar.must} | {met} |"
    yield ""


def _section(table: Table) -> Iterator[str]:
    yield from (f"### {table.title}", "")
    yield from (f"![{table.title}](benchmarks/{table.key}.svg)", "")
    if table.note:
        yield from (table.note, "")
    first, *others = table.figures
    head = [f"{first.name}, {first.unit}", "least to greatest"]
    compared = len(first.series) > 1 and not table.stacked
    if compared:
        head.append("x")
    if first.limit is not None:
        head.append("of the limit")
    head += [
        f"{figure.name}, {figure.unit}" if figure.unit != first.unit else figure.name
        for figure in others
    ]
    yield f"| | {' | '.join(head)} |"
    yield "|---|" + "---:|" * len(head)
    for series in first.series:
        cells = [*_median_and_spread(series)]
        if compared:
            ratio = first.against_first(series)
            cells.append("" if ratio is None else f"{ratio:,.2f}")
        if first.limit is not None:
            share = first.share(series)
            cells.append("" if share is None else percent(share))
        cells += [_cell(figure, series.name) for figure in others]
        yield f"| {series.name} | {' | '.join(cells)} |"
    if first.limit is not None:
        cells = [*_median_and_spread(first.limit), *[""] * compared, ""]
        cells += [_limit(figure) for figure in others]
        yield f"| *limit: {first.limit.name}* | {' | '.join(cells)} |"
    yield ""
    for bar in table.bars:
        yield f"- {bar.name}: {bar.reached}, must be {bar.must}: " + (
            "met" if bar.is_met else "**missed**"
        )
    if table.bars:
        yield ""


def _median_and_spread(series: Series) -> tuple[str, str]:
    median, spread = series.median, series.spread
    if median is None or spread is None:
        return "not in time", ""
    return number(median), f"{number(spread[0])} to {number(spread[1])}"


def _cell(figure: Figure, name: str) -> str:
    """Median and spread of one of the other figures, and its share of the limit."""
    median, spread = _median_and_spread(figure[name])
    share = figure.share(figure[name])
    inside = spread if len(figure[name].values) > 1 else ""
    if share is not None:
        inside += ("; " if inside else "") + percent(share)
    return f"{median} ({inside})" if inside and median != "not in time" else median


def _limit(figure: Figure) -> str:
    median = figure.limit.median if figure.limit is not None else None
    return "" if median is None else number(median)
