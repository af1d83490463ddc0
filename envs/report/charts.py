"""Draw charts as SVG, for the tools in the sandbox and for the hidden truth of the tasks.

The same numbers always give the same SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 400
HEIGHT = 300
LEFT = 30
RIGHT = 380
TOP = 60
BOTTOM = 250
"""Edges of the plot in user units; y grows downwards."""
COLOR = "#33658a"


def bar_chart(title: str, labels: Sequence[str], values: Sequence[float]) -> str:
    """Draw one bar per value; the highest fills the plot. Labels are below, values above."""
    step = (RIGHT - LEFT) / len(values)
    bars = [
        f'<rect x="{x - 0.35 * step:.1f}" y="{y:.1f}" width="{0.7 * step:.1f}" '
        f'height="{BOTTOM - y:.1f}" fill="{COLOR}"/>'
        for x, y in _places(values)
    ]
    return _picture(title, labels, values, bars)


def line_chart(title: str, labels: Sequence[str], values: Sequence[float]) -> str:
    """Draw one point per value, connected by a line."""
    places = [f"{x:.1f},{y:.1f}" for x, y in _places(values)]
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLOR}"/>' for x, y in _places(values)]
    line = f'<polyline points="{" ".join(places)}" fill="none" stroke="{COLOR}" stroke-width="3"/>'
    return _picture(title, labels, values, [line, *dots])


def number(value: float) -> str:
    """Format a number without trailing zeros: 12.0 -> 12, 3.50 -> 3.5."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _places(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the x centre and the y position of each value in the plot."""
    step = (RIGHT - LEFT) / len(values)
    most = max(values) or 1
    return [
        (LEFT + (index + 0.5) * step, BOTTOM - (BOTTOM - TOP) * value / most)
        for index, value in enumerate(values)
    ]


def _picture(title: str, labels: Sequence[str], values: Sequence[float], marks: list[str]) -> str:
    texts = [_text(WIDTH / 2, 28, 20, title)]
    for label, value, (x, y) in zip(labels, values, _places(values), strict=True):
        texts += [_text(x, BOTTOM + 22, 14, label), _text(x, y - 8, 14, number(value))]
    axis = (
        f'<line x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}" stroke="black" '
        'stroke-width="2"/>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return "\n".join([head, *marks, axis, *texts, "</svg>"]) + "\n"


def _text(x: float, y: float, size: int, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
        f'text-anchor="middle">{escape(text)}</text>'
    )
