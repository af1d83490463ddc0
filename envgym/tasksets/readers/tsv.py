"""Tab-separated values with the columns text,label or premise,hypothesis,label.

Cells are split at tabs and lines only. Quotes belong to the text, as in the IANA media type
`text/tab-separated-values` and in GLUE's files.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from envgym.tasksets.examples import Example
from envgym.tasksets.readers.csv import read_table

ENDINGS = (".tsv",)


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def read(path: Path) -> Iterator[Example]:
    """Yield the rows."""
    return read_table(path, _Tabs)
