"""Load labelled texts and questions: CSV, JSON Lines, official GLUE TSV and official SQuAD JSON.

A file of your own has the columns `text,label` or `premise,hypothesis,label`:

>>> [row.label for row in load_rows("tickets.csv")][:2]
['billing', 'technical']

Not supported: downloading (the data sets have separate licences).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envgym.errors import SpecError
from envgym.tasksets.examples import Example
from envgym.tasksets.readers import find_reader


def load_rows(path: str | Path, *, kind: str | None = None, **options: Any) -> list[Example]:
    """Return all examples of a file, in order.

    Args:
        path: File to read, in UTF-8.
        kind: Name of a reader (`csv`, `jsonl`, `squad`, `mrpc`, ...), or `file.py:name` relative to
            the data file's folder, or `package.module:name`. Default: the reader of the file's
            ending.
        options: Options of the reader, such as `skip_broken=True` for GLUE files.

    Raises:
        SpecError: If the file cannot be read or is invalid; the message begins with `file:line`.
        UsageError: If the kind is unknown, or the reader does not have an option.
    """
    path = Path(path)
    rows = find_reader(path, kind).read(path, options)
    if not rows:
        raise SpecError(f"{path}: contains no example")
    return rows
