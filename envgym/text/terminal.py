"""Console that prints foreign text as text: no markup, no emoji codes, no control characters.

All commands print tables, progress and conversations through `Console`, and other lines through
`print_line`. Styles are given by code, never by the printed text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from envgym.secrets import redact
from envgym.text import one_line, visible


class Console(rich.console.Console):
    """Console of rich that treats every string as plain text and escapes what is not printable.

    Args:
        options: Options of `rich.console.Console`.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Return a string as text; called for the strings in tables too, before they are sized."""
        return super().render_str(visible(redact(text)), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, and escape texts that were not built from strings of this console."""
        for segment in super().render(renderable, options):
            is_safe = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if is_safe else Segment(visible(segment.text), segment.style)


def cell(text: object, style: str = "") -> Text:
    """Return a table cell, a heading or a title that any console of rich prints as plain text."""
    return Text(one_line(redact(str(text))), style=style)


def heading(title: str, rest: str = "") -> Text:
    """Return a bold title, followed by plain text."""
    return Text.assemble((visible(redact(title)), "bold"), visible(redact(rest)))


def print_line(text: str, *, file: TextIO | None = None) -> None:
    """Print text to a stream, by default standard output: no secret, no raw control characters."""
    print(visible(redact(text)), file=file)


def prepare_streams() -> None:
    """Make the standard streams and warnings of this process accept any text.

    An output whose encoding lacks a character writes an escape instead of raising an error. Bytes
    of the input that cannot be decoded are kept until `clean` makes them visible.
    """
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None and getattr(sys.stdin, "errors", "") == "strict":
        reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", "") == "strict":
            reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_VisibleFormatter())


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
