"""Load labelled texts and questions: CSV, JSON Lines, official GLUE TSV and official SQuAD JSON.

A file of your own has the columns `text,label` or `premise,hypothesis,label`:

>>> [row.label for row in load_rows("tickets.csv")][:2]
['billing', 'technical']

An invalid row raises an error with file and line. Not supported: downloading (the data sets have
separate licences) and the test files of GLUE, which have no labels.

Sources: https://gluebenchmark.com (columns of each file),
https://rajpurkar.github.io/SQuAD-explorer/ (JSON format).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.tasksets.squad_json import questions_in

FIELDS = (("premise", "hypothesis"), ("text",))
"""Text columns of a user's file, the most specific first. Each also needs a column `label`."""


@dataclass(frozen=True, slots=True)
class Example:
    """One example."""

    texts: Mapping[str, str]
    """Texts by name, such as `text`, `premise` and `hypothesis`, `context` and `question`."""
    where: str
    """Position in the file: `file:line`, or for SQuAD the path in the JSON."""
    label: str | None = None
    """Correct label in words; None for a question."""
    answers: tuple[str, ...] | None = None
    """Correct answers of a question, empty if it is unanswerable; None for a labelled text."""
    score: float | None = None
    """STS-B: similarity from 0 to 5 as in the file. `label` is the nearest integer (halves round
    up)."""


@dataclass(frozen=True, slots=True)
class GlueFile:
    """Columns of a GLUE task's train and dev files, by their names in the header."""

    texts: Mapping[str, str]
    """Column of each text, by the name used in `Example.texts`."""
    label: str
    names: Mapping[str, str]
    """Label in words by label in the file; empty for a score."""
    columns: tuple[str, ...] | None = None
    """Names of the columns if the file has no header."""


_ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
GLUE = {
    "cola": GlueFile(
        {"sentence": "sentence"},
        "label",
        {"0": "unacceptable", "1": "acceptable"},
        ("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueFile({"sentence": "sentence"}, "label", {"0": "negative", "1": "positive"}),
    "mrpc": GlueFile(
        {"sentence1": "#1 String", "sentence2": "#2 String"},
        "Quality",
        {"0": "not_equivalent", "1": "equivalent"},
    ),
    "qqp": GlueFile(
        {"question1": "question1", "question2": "question2"},
        "is_duplicate",
        {"0": "not_duplicate", "1": "duplicate"},
    ),
    "stsb": GlueFile({"sentence1": "sentence1", "sentence2": "sentence2"}, "score", {}),
    "mnli": GlueFile(
        {"premise": "sentence1", "hypothesis": "sentence2"},
        "gold_label",
        {name: name for name in ("entailment", "neutral", "contradiction")},
    ),
    "qnli": GlueFile({"question": "question", "sentence": "sentence"}, "label", _ENTAILMENT),
    "rte": GlueFile({"premise": "sentence1", "hypothesis": "sentence2"}, "label", _ENTAILMENT),
    "wnli": GlueFile(
        {"premise": "sentence1", "hypothesis": "sentence2"},
        "label",
        {"0": "not_entailment", "1": "entailment"},
    ),
}
KINDS = ("csv", "jsonl", "squad", *GLUE)


def load_rows(
    path: str | Path, *, kind: str | None = None, skip_broken: bool = False
) -> list[Example]:
    """Return all examples of a file, in order.

    Args:
        path: File to read, in UTF-8.
        kind: One of `KINDS`. Default: the extension, for `.csv` and `.jsonl`.
        skip_broken: Whether to skip GLUE lines with a wrong number of columns. The official QQP
            file has some.

    Raises:
        SpecError: If the file cannot be read or is invalid; the message begins with `file:line`.
        UsageError: If the kind is unknown.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower() if kind is None else kind
    if kind not in KINDS:
        raise UsageError(
            f"{path}: no kind of data '{kind}'{did_you_mean(kind, KINDS)}; "
            f"name it: kind=... ({', '.join(KINDS)})"
        )
    text = _read(path)
    if kind == "squad":
        rows = [
            Example(texts, where, answers=answers)
            for texts, answers, where in questions_in(text, path)
        ]
    elif kind in GLUE:
        rows = list(_glue_rows(text, path, kind, skip_broken))
    else:
        rows = list({"csv": _csv_rows, "jsonl": _jsonl_rows}[kind](text, path))
    if not rows:
        raise SpecError(f"{path}: contains no example")
    return rows


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # MRPC's files start with a byte order mark
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


# -- CSV and JSON Lines ---------------------------------------------------------------------------


def _csv_rows(text: str, path: Path) -> Iterator[Example]:
    """Yield the rows of a CSV file; the position of a row is the line on which it begins."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval=None, restkey="")
    line = 1
    try:
        fields = _fields(list(reader.fieldnames or ()), f"{path}:1")
        line = reader.line_num + 1
        for record in reader:
            if "" in record or None in record.values():
                raise SpecError(
                    f"{path}:{line}: the number of columns differs from the header "
                    f"({len(reader.fieldnames or ())})"
                )
            yield _own_row(record, fields, f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise SpecError(f"{path}:{line}: not valid CSV: {error}") from None


def _jsonl_rows(text: str, path: Path) -> Iterator[Example]:
    fields: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(
                f"{where}: not valid JSON: {error.msg} (column {error.colno})"
            ) from None
        if not isinstance(record, dict):
            raise SpecError(
                f'{where}: must be an object such as {{"text": ..., "label": ...}}, '
                f"got {line.strip()[:40]}"
            )
        fields = fields or _fields(list(record), where)
        yield _own_row(record, fields, where)


def _fields(columns: list[str], where: str) -> tuple[str, ...]:
    """Return the names of the text columns. Raise SpecError if a column is missing."""
    found = next((fields for fields in FIELDS if set(fields) <= set(columns)), None)
    if found and "label" in columns:
        return found
    missing = "label" if found else "text"
    raise SpecError(
        f"{where}: no '{missing}'{did_you_mean(missing, columns)}; "
        f"needs text,label or premise,hypothesis,label, got {','.join(columns) or 'no columns'}"
    )


def _own_row(record: Mapping[str, Any], fields: tuple[str, ...], where: str) -> Example:
    if missing := [name for name in (*fields, "label") if name not in record]:
        raise SpecError(f"{where}: no '{missing[0]}'{did_you_mean(missing[0], record)}")
    texts = {name: _own_text(record[name], name, where) for name in fields}
    label = record["label"]
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    return Example(texts, where, label=" ".join(_own_text(label, "label", where).split()))


def _own_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{where}: {name} must be a non-empty text, got {value!r}")
    return value


# -- GLUE -----------------------------------------------------------------------------------------


def _glue_rows(text: str, path: Path, kind: str, skip_broken: bool) -> Iterator[Example]:
    """Yield the rows of a GLUE file.

    Cells are split at tabs only, because the official files use no quoting.
    """
    glue = GLUE[kind]
    lines = [line.rstrip("\r").split("\t") for line in text.rstrip("\n").split("\n")]
    if "index" in lines[0] and glue.label not in lines[0]:
        raise SpecError(
            f"{path}:1: has no labels, like GLUE's test files; use the train or dev file"
        )
    header = list(glue.columns or lines[0])
    if missing := [column for column in (*glue.texts.values(), glue.label) if column not in header]:
        raise SpecError(
            f"{path}:1: no column '{missing[0]}'{did_you_mean(missing[0], header)}, "
            f"which {kind} needs"
        )
    for number, cells in enumerate(lines, start=1):
        if number == 1 and glue.columns is None:
            continue
        if len(cells) == len(header):
            yield _glue_row(dict(zip(header, cells, strict=True)), glue, f"{path}:{number}")
        elif not skip_broken:
            raise SpecError(
                f"{path}:{number}: has {len(cells)} columns, not {len(header)}; "
                "set skip_broken=True to skip such lines"
            )


def _glue_row(cells: Mapping[str, str], glue: GlueFile, where: str) -> Example:
    texts = {name: cells[column].strip() for name, column in glue.texts.items()}
    if empty := [name for name, text in texts.items() if not text]:
        raise SpecError(f"{where}: {empty[0]} is empty")
    label = cells[glue.label].strip()
    if not glue.names:
        score = _similarity(label, where)
        return Example(texts, where, label=str(math.floor(score + 0.5)), score=score)
    if label not in glue.names:
        raise SpecError(f"{where}: {glue.label} is {label!r}, not one of {', '.join(glue.names)}")
    return Example(texts, where, label=glue.names[label])


def _similarity(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise SpecError(f"{where}: score must be a number from 0 to 5, got {text!r}")
    return score
