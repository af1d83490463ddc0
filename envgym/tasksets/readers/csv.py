"""CSV with the columns text,label or premise,hypothesis,label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from envgym.errors import SpecError
from envgym.tasksets.examples import Example, example_from_record, read_text, text_columns

ENDINGS = (".csv",)


def read(path: Path) -> Iterator[Example]:
    """Yield the rows; the position of a row is the line on which it begins."""
    return read_table(path, csv.excel)


def read_table(path: Path, dialect: type[csv.Dialect]) -> Iterator[Example]:
    """Yield the rows of a table with a header. Also used by `tsv.py`."""
    text = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(text, dialect=dialect, strict=True, restval=None, restkey="")
    line = 1
    try:
        fields = text_columns(list(reader.fieldnames or ()), f"{path}:1")
        line = reader.line_num + 1
        for record in reader:
            if "" in record or None in record.values():
                raise SpecError(
                    f"{path}:{line}: the number of columns differs from the header "
                    f"({len(reader.fieldnames or ())})"
                )
            yield example_from_record(record, fields, f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise SpecError(f"{path}:{line}: not valid CSV: {error}") from None
