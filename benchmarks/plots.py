"""Plots as SVG, drawn by hand: they take their colours from the page that they are put into.

Material's variables where the documentation is built, and a pair of colours for light and dark
where an image is shown as such.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from benchmarks.results import Figure, Table, number

WIDTH, ROW, LEFT, RIGHT = 900, 28, 270, 150
_STYLE = """
    .plot { --ink: var(--md-default-fg-color, #222); --soft: var(--md-default-fg-color--light, #666); --ours: var(--md-accent-fg-color, #00897b); --other: #9aa5b1; --p0: #4e79a7; --p1: #f28e2b; --p2: #e15759; --p3: #76b7b2; --p4: #59a14f; --p5: #b07aa1; }
    @media (prefers-color-scheme: dark) { .plot { --ink: var(--md-default-fg-color, #ddd); --soft: var(--md-default-fg-color--light, #aaa); --ours: var(--md-accent-fg-color, #26a69a); --other: #6b7683; } }
    .plot text { fill: var(--ink); font: 14px system-ui, sans-serif; }
    .plot text.soft { fill: var(--soft); font-size: 12px; }
    .plot text.ours { font-weight: 600; }
    .plot rect { fill: var(--other); }
    .plot rect.ours { fill: var(--ours); }
    .plot path { fill: none; stroke: var(--ink); stroke-width: 1.2; }
    .plot path.limit { stroke: var(--soft); stroke-dasharray: 5 4; }
"""  # noqa: E501
#: Medians that differ by more than this are shown on a scale of powers.
FAR = 50.0


def draw(table: Table) -> str:
    """The first figure of a table, or all of them as parts of a whole."""
    return _stacked(table) if table.stacked else _bars(table.figures[0])


def _bars(figure: Figure) -> str:
    """A bar for each median, with a whisker from the least to the greatest."""
    rows = [*figure.series, *([figure.limit] if figure.limit else [])]
    scale = _Scale([value for one in rows for value in (one.spread or ())])
    parts: list[str] = []
    for index, series in enumerate(figure.series):
        middle = ROW * index + ROW / 2
        ours = series.name.startswith("hermes_tasks")
        parts.append(_label(series.name, middle, ours=ours))
        if series.median is None or series.spread is None:
            parts.append(_text(LEFT, middle + 5, "not in time", "soft"))
            continue
        end, (low, high) = scale.at(series.median), map(scale.at, series.spread)
        ends = f"M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        said = f"{number(series.median)} {figure.unit}"
        parts += [
            _bar(LEFT, middle, end - LEFT, 'class="ours"' if ours else ""),
            f'<path d="M{low:.1f} {middle}H{high:.1f}{ends}"/>',
            _text(max(end, high) + 8, middle + 5, said),
        ]
    bottom = ROW * len(figure.series)
    if figure.limit is not None and figure.limit.median is not None:
        x = scale.at(figure.limit.median)
        said = f"limit: {figure.limit.name}, {number(figure.limit.median)} {figure.unit}"
        parts += [
            f'<path class="limit" d="M{x:.1f} 0V{bottom + 4}"/>',
            _text(x, bottom + 18, said, "soft", "end" if x > WIDTH / 2 else "start"),
        ]
    axis = f"{figure.name}, {figure.unit}" + ", a scale of powers" * scale.powers
    parts.append(_text(0, bottom + 18, axis, "soft"))
    return _svg(parts, bottom + 26)


def _stacked(table: Table) -> str:
    """A bar for each series, of all figures."""
    names = [series.name for series in table.figures[0].series]
    values = {name: [figure[name].median or 0.0 for figure in table.figures] for name in names}
    scale = _Scale([sum(parts) for parts in values.values()], powers=False)
    unit = table.figures[0].unit
    parts: list[str] = []
    for index, name in enumerate(names):
        middle = ROW * index + ROW / 2
        parts.append(_label(name, middle, ours=name.startswith("hermes_tasks")))
        x = float(LEFT)
        for colour, value in enumerate(values[name]):
            width = max(0.0, scale.at(value) - LEFT)
            parts.append(_bar(x, middle, width, f'style="fill: var(--p{colour})"'))
            x += width
        parts.append(_text(x + 8, middle + 5, f"{number(round(sum(values[name]), 1))} {unit}"))
    y, x = ROW * len(names) + 16, 0.0
    for colour, figure in enumerate(table.figures):
        parts.append(_bar(x, y - 4, 12, f'style="fill: var(--p{colour})"', height=12))
        parts.append(_text(x + 17, y, figure.name, "soft"))
        x += 40 + 6.6 * len(figure.name)
    return _svg(parts, y + 10)


class _Scale:
    """From values to the x of a plot."""

    def __init__(self, values: Iterable[float], *, powers: bool = True) -> None:
        known = [value for value in values if value > 0] or [1.0]
        self._high = max(known)
        self.powers = powers and self._high > FAR * min(known)
        self._low = 10 ** math.floor(math.log10(min(known)) - 0.3) if self.powers else 0.0

    def at(self, value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        if not self.powers:
            return LEFT + room * max(0.0, value) / self._high
        share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        return LEFT + room * share


def _label(name: str, middle: float, *, ours: bool) -> str:
    return _text(LEFT - 10, middle + 5, name, "ours" if ours else "", "end")


def _text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    how = f' class="{kind}"' if kind else ""
    return f'<text{how} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _bar(x: float, middle: float, width: float, how: str, *, height: float = 18) -> str:
    top = middle - height / 2
    return f'<rect {how} x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:g}"/>'


def _svg(parts: Iterable[str], height: float) -> str:
    begin = '<svg class="diagram plot" xmlns="http://www.w3.org/2000/svg"'
    lines = [f'{begin} viewBox="0 -6 {WIDTH} {height + 6:.0f}">', f"<style>{_STYLE}</style>"]
    return "\n".join([*lines, *parts, "</svg>"]) + "\n"
