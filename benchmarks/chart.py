"""Lines on two logarithmic axes as SVG, for docs/images; no library is needed to draw or to show it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 420, 64, 210, 24, 52
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: told apart without red and green

Line = Sequence[tuple[float, float]]


def svg(lines: Mapping[str, Line], x_label: str, y_label: str) -> str:
    """Every value above 0; a line of one point is a dot."""
    points = [point for line in lines.values() for point in line]
    x_low, x_high = _decades(x for x, _ in points)
    y_low, y_high = _decades(y for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        up = (math.log10(y) - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + right, 1), round(_HEIGHT - _BOTTOM - up, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    (left, bottom), (right, top) = place(10**x_low, 10**y_low), place(10**x_high, 10**y_high)
    for power in range(x_low, x_high + 1):
        x, _ = place(10**power, 10**y_low)
        parts += [_grid(x, bottom, x, top), _text(x, bottom + 20, f"{10**power:,}", "middle")]
    for power in range(y_low, y_high + 1):
        _, y = place(10**x_low, 10.0**power)
        parts += [_grid(left, y, right, y), _text(left - 8, y + 4, f"{10.0**power:,g}", "end")]
    parts.append(_text((left + right) / 2, _HEIGHT - 10, x_label, "middle"))
    parts.append(_text(left - 48, top - 8, y_label, "start"))
    for number, (name, line) in enumerate(lines.items()):
        colour, placed = _COLOURS[number % len(_COLOURS)], [place(x, y) for x, y in line]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in placed]
        y = top + 20 * number + 8
        parts += [
            f'<circle cx="{right + 16}" cy="{y}" r="4" fill="{colour}"/>',
            _text(right + 26, y + 4, name, "start"),
        ]
    return "\n".join([*parts, "</svg>\n"])


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around the values."""
    logs = [math.log10(value) for value in values]
    low = math.floor(min(logs))
    return low, max(low + 1, math.ceil(max(logs)))


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'
