"""What was measured: values by contender, what they must reach, and how they are shown as text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Self


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

    @property
    def must(self) -> str:
        """``at least 1``, ``at most 60``."""
        return (
            f"at least {self.at_least:,g}"
            if self.at_least is not None
            else f"at most {self.at_most:,g}"
        )

    @property
    def reached(self) -> str:
        """The value, as it is shown."""
        return "never" if self.value is None else number(self.value)

    def __str__(self) -> str:
        return f"{self.name}: {self.reached} ({self.must}: {'met' if self.is_met else 'MISSED'})"


@dataclass(slots=True)
class Figure:
    """One number of every contender.

    Attributes:
        name: such as ``p50``.
        unit: of the values.
        series: by contender.
        lower_is_better: as with times.
        limit: what the machine needs for the least that any of them has to do, in the same unit.
    """

    name: str
    unit: str
    series: list[Series]
    lower_is_better: bool = False
    limit: Series | None = None

    def __getitem__(self, name: str) -> Series:
        return next(series for series in self.series if series.name == name)

    def ratio(self, name: str, other: str) -> float | None:
        """Of two medians."""
        return _over(self[name].median, self[other].median)

    def paired_ratio(self, name: str, other: str) -> float | None:
        """The median of the ratios of runs that were made one after the other."""
        pairs = zip(self[name].values, self[other].values, strict=True)
        known = [one / two for one, two in pairs if one is not None and two]
        return statistics.median(known) if known else None

    def share(self, series: Series) -> float | None:
        """Of the limit: 1 is all that the machine gives. ``None`` where there is no limit."""
        if self.limit is None:
            return None
        if self.lower_is_better:
            return _over(self.limit.median, series.median)
        return _over(series.median, self.limit.median)

    def against_first(self, series: Series) -> float | None:
        """The median over that of the first series, which is ours."""
        return _over(series.median, self.series[0].median)

    def text(self) -> Iterator[str]:
        """For a terminal."""
        yield f"  {self.name}, {self.unit}"
        for series in self.series:
            ratio, share = self.against_first(series), self.share(series)
            yield (
                f"    {series.name:44}{shown(series)}"
                + (f"  x {ratio:,.2f}" if ratio is not None and len(self.series) > 1 else "")
                + (f"  {percent(share)} of the limit" if share is not None else "")
            )
        if self.limit is not None:
            yield f"    limit: {self.limit.name:37}{shown(self.limit)}"


@dataclass(slots=True)
class Table:
    """A measurement.

    Attributes:
        key: short and stable, for files.
        title: what is measured, of what.
        figures: the first is the one that the plot shows.
        note: what a reader must know to use the figures.
        bars: what they must reach.
        stacked: the figures of a series are parts of a whole.
    """

    key: str
    title: str
    figures: list[Figure]
    note: str = ""
    bars: list[Bar] = field(default_factory=list)
    stacked: bool = False

    def __getitem__(self, name: str) -> Figure:
        return next(figure for figure in self.figures if figure.name == name)

    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.title} (median, least to greatest)"]
        for figure in self.figures:
            lines += figure.text()
        lines += [f"  {bar}" for bar in self.bars]
        return "\n".join(lines)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What :func:`dataclasses.asdict` made of one."""
        figures = [
            Figure(
                **{
                    **one,
                    "series": [Series(**series) for series in one["series"]],
                    "limit": one["limit"] and Series(**one["limit"]),
                }
            )
            for one in found["figures"]
        ]
        return cls(**{**found, "figures": figures, "bars": [Bar(**bar) for bar in found["bars"]]})


@dataclass(slots=True)
class Case:
    """The tables of one module of :mod:`benchmarks.cases`.

    Attributes:
        name: of the module.
        title: of its section.
        about: what is measured, and what it means to a user, in Markdown.
        runs: of each contender.
        date: when it was measured.
        tables: in their order.
        seconds: it took.
    """

    name: str
    title: str
    about: str
    runs: int
    date: str
    tables: list[Table] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Results:
    """What was measured on one machine."""

    machine: dict[str, str]
    cases: list[Case] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """A case, instead of what it found before."""
        names = [known.name for known in self.cases]
        if case.name in names:
            self.cases[names.index(case.name)] = case
        else:
            self.cases.append(case)

    @property
    def bars(self) -> list[Bar]:
        """Of all tables."""
        return [bar for case in self.cases for table in case.tables for bar in table.bars]

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        cases = [
            Case(**{**case, "tables": [Table.from_json(table) for table in case["tables"]]})
            for case in found["cases"]
        ]
        return cls(found["machine"], cases)


Run = Callable[[], Mapping[str, float | None]]
"""Measures one contender once: its figures by name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a figure of a run is."""

    unit: str
    lower_is_better: bool = False


def measured(
    runs: int,
    contenders: Mapping[str, Run],
    kinds: Mapping[str, Kind],
    limit: tuple[str, Run] | None = None,
    at_once: int = 1,
) -> list[Figure]:
    """Run the contenders in turn, ``runs`` times each, so that noise meets all of them alike.

    Args:
        runs: of each.
        contenders: by name, ours first.
        kinds: the figures that a run gives.
        limit: runs in turn with them; it may lack figures that have no limit.
        at_once: contenders that run at the same time, where most of what they do is waiting.
    """
    assert limit is None or limit[0] not in contenders, "a limit is named as a contender is"
    found: list[tuple[str, Mapping[str, float | None]]] = []
    for _ in range(runs):
        if at_once == 1:
            # In this thread, which Ctrl-C ends with all that it has started.
            found += [(name, run()) for name, run in contenders.items()]
        else:
            with ThreadPoolExecutor(at_once) as pool:
                results = pool.map(lambda run: run(), contenders.values())
                found += zip(contenders, results, strict=True)
        if limit is not None:
            found.append((limit[0], limit[1]()))
    return [figure(name, kind, found, limit[0] if limit else "") for name, kind in kinds.items()]


def figure(
    name: str,
    kind: Kind,
    found: Sequence[tuple[str, Mapping[str, float | None]]],
    limit: str = "",
) -> Figure:
    """One figure of what contenders gave, by their names."""
    series: dict[str, Series] = {}
    for contender, values in found:
        if name in values:
            series.setdefault(contender, Series(contender)).values.append(values[name])
    least = series.pop(limit, None)
    return Figure(name, kind.unit, list(series.values()), kind.lower_is_better, least)


def named(peers: Sequence[Any], run: Callable[[Any], Run]) -> dict[str, Run]:
    """A run for each contender, by its name."""
    return {peer.name: run(peer) for peer in peers}


def shown(series: Series) -> str:
    """Median and spread, for a terminal."""
    median, spread = series.median, series.spread
    if median is None or spread is None:
        return f"{'not in time':>12}"
    return f"{number(median):>12}  ({number(spread[0])} to {number(spread[1])})"


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Of a whole."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _over(one: float | None, two: float | None) -> float | None:
    return None if one is None or not two else one / two
