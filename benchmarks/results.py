"""What was measured: values by contender, what they must reach, and how they are shown as text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Series:
    """One contender's values, in the order of the runs; ``None``: it did not end in time."""

    name: str
    values: list[float | None] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        """Of the runs; a run that did not end counts as the worst, so half of them decide."""
        known = sorted(value for value in self.values if value is not None)
        missing = len(self.values) - len(known)
        return statistics.median(known) if known and missing < len(self.values) / 2 else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the greatest."""
        known = [value for value in self.values if value is not None]
        return (min(known), max(known)) if known else None


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool:
        if self.value is None:
            return False
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)

    def __str__(self) -> str:
        bar = f"at least {self.at_least:,g}" if self.at_least is not None else ""
        bar = bar or f"at most {self.at_most:,g}"
        shown = "never" if self.value is None else f"{self.value:,.3g}"
        return f"{self.name}: {shown} ({bar}: {'met' if self.is_met else 'MISSED'})"


@dataclass(slots=True)
class Table:
    """A measurement.

    Attributes:
        key: short and stable, for files.
        title: what is measured, of what.
        unit: of the values.
        series: by contender.
        lower_is_better: as with times.
        note: what a reader must know to use the figures.
        bars: what they must reach.
    """

    key: str
    title: str
    unit: str
    series: list[Series]
    lower_is_better: bool = False
    note: str = ""
    bars: list[Bar] = field(default_factory=list)

    def __getitem__(self, name: str) -> Series:
        return next(series for series in self.series if series.name == name)

    def ratio(self, name: str, other: str) -> float | None:
        """Of two medians."""
        one, two = self[name].median, self[other].median
        return None if one is None or not two else one / two

    def paired_ratio(self, name: str, other: str) -> float | None:
        """The median of the ratios of runs that were made one after the other."""
        pairs = zip(self[name].values, self[other].values, strict=True)
        known = [one / two for one, two in pairs if one is not None and two]
        return statistics.median(known) if known else None

    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.title} ({self.unit}; median, least to greatest)"]
        best = self._best()
        lines += [f"  {series.name:28}{_row(series, best)}" for series in self.series]
        lines += [f"  {bar}" for bar in self.bars]
        return "\n".join(lines)

    def _best(self) -> float | None:
        known = [series.median for series in self.series if series.median is not None]
        return (min if self.lower_is_better else max)(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """Everything, for the page."""
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "lower_is_better": self.lower_is_better,
            "note": self.note,
            "series": {series.name: series.values for series in self.series},
            "bars": [
                {
                    "name": bar.name,
                    "value": bar.value,
                    "at_least": bar.at_least,
                    "at_most": bar.at_most,
                    "met": bar.is_met,
                }
                for bar in self.bars
            ],
        }


def _row(series: Series, best: float | None) -> str:
    median, spread = series.median, series.spread
    if median is None or spread is None:
        return f"{'not in time':>12}"
    share = f"  x {median / best:.2f}" if best else ""
    return f"{median:12,.4g}  ({spread[0]:,.4g} to {spread[1]:,.4g}){share}"


Run = Callable[[], Mapping[str, float | None]]


def interleaved(runs: int, contenders: Mapping[str, Run]) -> dict[str, list[Series]]:
    """Run the contenders in turn, ``runs`` times each, so that noise meets all of them alike.

    A run gives its figures by name; the result has the series of every contender for each of them.
    """
    figures: dict[str, list[Series]] = {}
    for _ in range(runs):
        for name, run in contenders.items():
            for figure, value in run().items():
                every = figures.setdefault(figure, [])
                series = next((one for one in every if one.name == name), None)
                if series is None:
                    series = Series(name)
                    every.append(series)
                series.values.append(value)
    return figures


def named(peers: Sequence[Any], run: Callable[[Any], Run]) -> dict[str, Run]:
    """A run for each contender, by its name."""
    return {peer.name: run(peer) for peer in peers}
