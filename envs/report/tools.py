"""Tools that read tables and write charts and texts in the episode's folder.

They run in the sandbox and use only the standard library.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import charts

MOST_CHARACTERS = 20_000
MOST_VALUES = 12


def read_file(folder: Path, path: str) -> str:
    """Read a file of the folder.

    Args:
        path: such as goods.csv.
    """
    place = _place(folder, path)
    if not place.is_file():
        raise ValueError(
            f"no file {path}; there are "
            f"{', '.join(sorted(entry.name for entry in folder.iterdir()))}"
        )
    return place.read_text(encoding="utf-8")


def write_file(folder: Path, path: str, text: str) -> str:
    """Write a text file, new or instead of the old one.

    Args:
        text: the whole content.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters; a file holds at most {MOST_CHARACTERS}")
    _place(folder, path).write_bytes(text.encode("utf-8", "replace"))
    return "written"


def draw_bar_chart(
    folder: Path, path: str, title: str, labels: list[str], values: list[float]
) -> str:
    """Draw a bar chart into an SVG file.

    Args:
        labels: one below each bar.
        values: one for each label, none negative.
    """
    return write_file(folder, path, charts.bar_chart(*_checked(title, labels, values)))


def draw_line_chart(
    folder: Path, path: str, title: str, labels: list[str], values: list[float]
) -> str:
    """Draw a line chart into an SVG file; arguments as of draw_bar_chart."""
    return write_file(folder, path, charts.line_chart(*_checked(title, labels, values)))


def _checked(
    title: str, labels: list[str], values: list[float]
) -> tuple[str, list[str], list[float]]:
    if not 1 <= len(values) <= MOST_VALUES or len(labels) != len(values):
        raise ValueError(
            f"{len(labels)} labels and {len(values)} values; needs one label a value, and 1 to "
            f"{MOST_VALUES} of them"
        )
    if any(not math.isfinite(value) or not 0 <= value <= 1e9 for value in values):
        raise ValueError("values are from 0 to 1000000000")
    if any(len(text) > 60 or not text.isprintable() for text in (title, *labels)):
        raise ValueError("a title and labels have at most 60 characters, all printable")
    return title, labels, values


def _place(folder: Path, path: str) -> Path:
    """Return the path of a file directly in the folder.

    Raises:
        ValueError: If the path is not a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,60}", path):
        raise ValueError(f"{path!r}: give a plain file name, such as chart.svg")
    return folder / path
