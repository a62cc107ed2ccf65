"""The page of the benchmarks says what was measured, and can be made again from its results."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.__main__ import CASES
from benchmarks.results import Bar, Case, Figure, Kind, Results, Series, Table, measured


@pytest.fixture
def results() -> Results:
    """Two tables: one of figures that are compared, one of parts of a whole."""
    times = Figure(
        "p50",
        "µs",
        [
            Series("hermes_tasks", [50.0, 40.0, 60.0]),
            Series("Celery & <others>", [500.0, 400.0, 9_000.0]),
            Series("RQ", [None, None, 1.0]),
        ],
        lower_is_better=True,
        limit=Series("SQLite insert", [20.0]),
    )
    parts = [Figure(name, "µs", [Series("hermes_tasks", [3.0])]) for name in ("main", "pool")]
    tables = [
        Table("enqueue-1k", "A turn", [times], bars=[Bar("µs of a call", 50.0, at_most=60.0)]),
        Table("profile", "CPU", parts, bars=[Bar("gain", None, at_least=1.0)], stacked=True),
    ]
    return Results(
        {"machine": "a small one"},
        [Case("enqueue", "Enqueue", "How long.", 5, "2026-11-21", tables)],
    )


def test_the_page_shows_medians_ratios_shares_and_bars(results: Results) -> None:
    page = report.page(results)
    assert "**1 of 2 bars met.** Missed:\n\n- gain: never, must be at least 1\n" in page
    assert "| machine | a small one |" in page
    assert "| hermes_tasks | 50 | 40 to 60 | 1.00 | 40% |" in page
    assert "| Celery & <others> | 500 | 400 to 9,000 | 10.00 | 4.0% |" in page
    assert "| RQ | not in time |  |  |  |" in page
    assert "| *limit: SQLite insert* | 20 | 20 to 20 |  |  |" in page


def test_what_is_written_is_all_there_and_can_be_read_again(
    results: Results, tmp_path: Path
) -> None:
    page = report.write(results, tmp_path).read_text()
    for plot in re.findall(r"!\[.*?\]\((.*?)\)", page):
        ElementTree.parse(tmp_path / plot)
    again = report.read(tmp_path)
    assert json.dumps(again.to_json()) == json.dumps(results.to_json())
    assert report.page(again) == page


def test_a_case_that_is_measured_again_takes_its_own_place(results: Results) -> None:
    other = Case("size", "Size", "How much.", 5, "2026-11-21")
    results.add(other)
    again = Case("enqueue", "Enqueue", "How long.", 7, "2026-11-22")
    results.add(again)
    assert results.cases == [again, other]


def test_contenders_run_in_turn_and_the_limit_with_them() -> None:
    order: list[str] = []

    def run(name: str, value: float) -> dict[str, float | None]:
        order.append(name)
        return {"rate": value}

    (rate,) = measured(
        2,
        {"ours": lambda: run("ours", 5.0), "theirs": lambda: run("theirs", 2.0)},
        {"rate": Kind("turns/s")},
        ("the machine", lambda: run("limit", 10.0)),
    )
    assert order == ["ours", "theirs", "limit"] * 2
    assert [series.name for series in rate.series] == ["ours", "theirs"]
    assert rate.share(rate["ours"]) == 0.5
    assert rate.ratio("ours", "theirs") == 2.5


@pytest.mark.parametrize("name", CASES)
def test_every_case_says_what_it_measures(name: str) -> None:
    case = importlib.import_module(f"benchmarks.cases.{name}")
    assert case.TITLE
    assert case.ABOUT
