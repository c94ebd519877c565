"""Draws line charts on a logarithmic scale as inline SVG: no script, file or library, and the same bytes every time.

Colours come from the page's style sheet (`.s1`, `.s2`, …), so that a chart follows light and dark. Errors span many
powers of ten, hence the scale; a zero is drawn on the lower edge, an infinite error on the upper one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 520, 260  # in the units of the view box
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
MOST_DECADES = 12  # below the largest value: what is smaller is as good as zero
MOST_MARKERS = 64  # more points than these are a curve, not values to point at
MOST_TICKS = 8


@dataclass(frozen=True)
class Series:
    """One line: y values at x = 0, 1, 2, …"""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class _Scale:
    """The scale of a chart: x from 0 to `last`, y from 10^low to 10^high."""

    last: int
    low: int
    high: int

    def x(self, index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(self.last, 1)

    def y(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self.low
        share = (min(max(exponent, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def line_chart(label: str, x_label: str, series: Sequence[Series]) -> str:
    """Returns the SVG element; `label` describes it to screen readers, `x_label` names the horizontal axis."""
    scale = _scale(series)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts += _axes(scale, x_label)
    for number, line in enumerate(series, 1):
        parts += _line(scale, line, f"s{number}", x_label)
    return "\n".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """Returns the legend of names and colours, or nothing for a single line."""
    if len(series) < 2:
        return ""
    items = (f'<span class="key s{number}">{escape(line.name)}</span>' for number, line in enumerate(series, 1))
    return f'<p class="legend">{"".join(items)}</p>'


def _scale(series: Sequence[Series]) -> _Scale:
    values = [value for line in series for value in line.values if 0 < value < math.inf] or [1.0]
    high = math.ceil(math.log10(max(values)) + 1e-9)
    low = max(math.floor(math.log10(min(values))), high - MOST_DECADES)
    return _Scale(max(len(line.values) for line in series) - 1, min(low, high - 1), high)


def _axes(scale: _Scale, x_label: str) -> list[str]:
    parts = []
    for value in _marks(scale):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0e}</text>')
    step = _round_step(scale.last / MOST_TICKS)
    for index in range(0, scale.last + 1, step):
        parts.append(f'<text x="{scale.x(index):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{index}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _marks(scale: _Scale) -> list[float]:
    """Returns the values named on the vertical axis: powers of ten, with 2 and 5 times them where those are few."""
    decades = scale.high - scale.low
    steps = (1, 2, 5) if decades <= 2 else (1,)
    exponents = range(scale.low, scale.high, math.ceil(decades / MOST_TICKS))
    return [step * 10.0**exponent for exponent in exponents for step in steps] + [10.0**scale.high]


def _round_step(least: float) -> int:
    """Returns the smallest of 1, 2, 5, 10, 20, 50, … that is not below `least`."""
    power = 10 ** max(math.floor(math.log10(max(least, 1))), 0)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _line(scale: _Scale, line: Series, style: str, x_label: str) -> list[str]:
    places = [(scale.x(index), scale.y(value)) for index, value in enumerate(line.values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="{style}" points="{path}"/>']
    if len(places) <= MOST_MARKERS:
        for index, ((x, y), value) in enumerate(zip(places, line.values, strict=True)):
            hint = f"{escape(line.name)}, {escape(x_label)} {index}: {value:.2e}"
            parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{hint}</title></circle>')
    return parts
