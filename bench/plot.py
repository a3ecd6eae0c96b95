"""One figure as a picture: a bar for each contestant, its spread as a whisker; plain SVG, so that nothing needs to be installed."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, LEFT, ROW, TOP = 760, 230, 30, 56
_COLOURS = {"tidemill": "#0b7285", "dbos": "#adb5bd", "limit": "#e8a33d"}


class Bar(NamedTuple):
    """A contestant's figure."""

    name: str
    median: float
    least: float
    most: float


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """The picture; lengths are proportional, from zero."""
    room = WIDTH - LEFT - 90
    scale = room / max(row.most for row in rows)
    lines = [line for number, row in enumerate(rows) for line in _bar(row, TOP + number * ROW, scale)]
    height = TOP + len(rows) * ROW + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="16" y="24" font-size="15" font-weight="600" fill="#212529">{escape(title)}</text>',
            f'<text x="16" y="42" fill="#868e96">{escape(unit)}; bar: median of rounds, whisker: least and most</text>',
            *lines,
            "</svg>",
            "",
        ]
    )


def _bar(row: Bar, y: float, scale: float) -> list[str]:
    colour = _COLOURS.get(row.name.split(",")[0].split(" ")[0], "#868e96")
    low, high, middle = LEFT + row.least * scale, LEFT + row.most * scale, y + 9
    return [
        f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end" fill="#212529">{escape(row.name)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{row.median * scale:.1f}" height="18" rx="2" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8" stroke="#212529" fill="none"/>',
        f'<text x="{high + 8:.1f}" y="{y + 14}" fill="#212529">{number(row.median)}</text>',
    ]


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
