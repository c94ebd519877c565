"""Horizontal bars as SVG files: no script, no library, the same bytes every time.

Colours are readable on light and on dark pages, and the text takes the colour of the reader's scheme.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 760
LABEL_WIDTH, VALUE_WIDTH = 210, 90
BAR, GAP, GROUP_GAP, TITLE_HEIGHT, LEGEND_LINE = 13, 2, 12, 34, 20
LEGEND_COLUMNS = 3
COLORS = ("#9a6b4f", "#d19a66", "#e5c07b", "#3b6ea5", "#2aa198", "#6c9a3b", "#8e5ea2", "#777777")
STYLE = """<style>
text { font: 12px sans-serif; fill: #24292f } .title { font-size: 14px; font-weight: bold } .value { font-size: 11px }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
</style>"""


@dataclass(frozen=True)
class Group:
    """Bars under one label: a value by series, where it was measured."""

    label: str
    values: Mapping[str, float]


def bar_chart(title: str, series: Sequence[str], groups: Sequence[Group]) -> str:
    """The SVG file. A series has the same colour in every chart that is given the same `series`."""
    groups = [group for group in groups if group.values]
    most = max((value for group in groups for value in group.values.values()), default=1.0)
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(series)}
    parts = [f'<text class="title" x="8" y="20">{escape(title)}</text>']
    y = TITLE_HEIGHT
    for number, name in enumerate(series):
        x = 8 + number % LEGEND_COLUMNS * (WIDTH // LEGEND_COLUMNS)
        line = y + number // LEGEND_COLUMNS * LEGEND_LINE
        parts.append(f'<rect x="{x}" y="{line}" width="12" height="12" fill="{colors[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="{line + 10}">{escape(name)}</text>')
    y += math.ceil(len(series) / LEGEND_COLUMNS) * LEGEND_LINE + GROUP_GAP
    for group in groups:
        bars = [(name, group.values[name]) for name in series if name in group.values]
        middle = y + len(bars) * (BAR + GAP) / 2 + 4
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{middle:.1f}" text-anchor="end">{escape(group.label)}</text>')
        for name, value in bars:
            width = max((WIDTH - LABEL_WIDTH - VALUE_WIDTH) * value / most, 1)
            parts.append(
                f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colors[name]}">'
                f"<title>{escape(name)}: {_number(value)}</title></rect>"
            )
            parts.append(
                f'<text class="value" x="{LABEL_WIDTH + width + 5:.1f}" y="{y + BAR - 3}">{_number(value)}</text>'
            )
            y += BAR + GAP
        y += GROUP_GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(title)}">'
    return "\n".join([head, STYLE, *parts, "</svg>\n"])


def _number(value: float) -> str:
    """Three digits or so; more are noise."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
