"""JSON Lines with the keys text, label or premise, hypothesis, label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from envgym.errors import SpecError
from envgym.tasksets.examples import Example, example_from_record, read_text, text_columns

ENDINGS = (".jsonl",)


def read(path: Path) -> Iterator[Example]:
    """Yield the rows. Blank lines are skipped."""
    fields: tuple[str, ...] = ()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(
                f"{where}: not valid JSON: {error.msg} (column {error.colno})"
            ) from None
        except (RecursionError, ValueError):
            raise SpecError(f"{where}: nested too deeply, or an integer is too long") from None
        if not isinstance(record, dict):
            raise SpecError(
                f'{where}: must be an object such as {{"text": ..., "label": ...}}, '
                f"got {line.strip()[:40]}"
            )
        fields = fields or text_columns(list(record), where)
        yield example_from_record(record, fields, where)
