"""Reads labelled texts and questions from files: a user's own CSV or JSON Lines, official GLUE TSV and official SQuAD JSON.

    rows = load_rows("tickets.csv")                       # columns text,label or premise,hypothesis,label
    rows = load_rows("MRPC/dev.tsv", kind="mrpc")
    rows = load_rows("dev-v2.0.json", kind="squad")       # 1.1 and 2.0

Nothing is guessed: a row that does not fit is an error with file and line. `text_tasks.py` makes tasks of the rows.
Left out: downloading (the sets have licences of their own), and the test files of GLUE, which come without labels.

Sources: https://gluebenchmark.com (columns of each file), https://rajpurkar.github.io/SQuAD-explorer/ (JSON format).
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
"""Text columns of a user's own file, the most particular first; each needs `label` beside it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    texts: Mapping[str, str]
    """Name -> text, such as `text`, `premise` and `hypothesis`, `context` and `question`."""
    where: str
    """`file:line` it was read from; for SQuAD its place in the JSON."""
    label: str | None = None
    """Right label in words; None for a question."""
    answers: tuple[str, ...] | None = None
    """Right answers of a question, none for an unanswerable one; None for a labelled text."""
    score: float | None = None
    """STS-B: the similarity from 0 to 5 as it stands in the file; `label` is the nearest whole number (halves upwards)."""


@dataclass(frozen=True, slots=True)
class GlueFile:
    """Where the columns of a GLUE task's train and dev files are, by name in the header."""

    texts: Mapping[str, str]
    """Our name of a text -> column."""
    label: str
    names: Mapping[str, str]
    """Label in the file -> in words; empty for a score."""
    columns: tuple[str, ...] | None = None
    """Names of the columns where the file has no header."""


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


def load_rows(path: str | Path, *, kind: str | None = None, skip_broken: bool = False) -> list[Row]:
    """All examples of a file, in its order.

    Args:
        kind: one of `KINDS`; by default that of the file's ending, for `.csv` and `.jsonl`.
        skip_broken: leave out GLUE lines with too few or too many columns, of which the official QQP file has some.
    Raises: SpecError with `file:line: what` for a file that cannot be read; UsageError for an unknown kind.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower() if kind is None else kind
    if kind not in KINDS:
        raise UsageError(
            f"{path}: no kind of data '{kind}'{did_you_mean(kind, KINDS)}; name it: kind=... ({', '.join(KINDS)})"
        )
    text = _read(path)
    if kind == "squad":
        rows = [
            Row(texts, where, answers=answers) for texts, answers, where in questions_in(text, path)
        ]
    elif kind in GLUE:
        rows = list(_glue_rows(text, path, kind, skip_broken))
    else:
        rows = list({"csv": _csv_rows, "jsonl": _jsonl_rows}[kind](text, path))
    if not rows:
        raise SpecError(f"{path}: holds no example")
    return rows


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # MRPC's files begin with a byte order mark
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


# -- a user's own file --------------------------------------------------------------------------------------------------


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    """A row's place is the line it begins on."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval=None, restkey="")
    line = 1
    try:
        fields = _fields(list(reader.fieldnames or ()), f"{path}:1")
        line = reader.line_num + 1
        for record in reader:
            if "" in record or None in record.values():
                raise SpecError(
                    f"{path}:{line}: has another number of columns than the header ({len(reader.fieldnames or ())})"
                )
            yield _own_row(record, fields, f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise SpecError(f"{path}:{line}: not valid CSV: {error}") from None


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
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
                f'{where}: must be an object such as {{"text": ..., "label": ...}}, got {line.strip()[:40]}'
            )
        fields = fields or _fields(list(record), where)
        yield _own_row(record, fields, where)


def _fields(columns: list[str], where: str) -> tuple[str, ...]:
    """Which text columns there are. Raises SpecError."""
    found = next((fields for fields in FIELDS if set(fields) <= set(columns)), None)
    if found and "label" in columns:
        return found
    missing = "label" if found else "text"
    raise SpecError(
        f"{where}: no '{missing}'{did_you_mean(missing, columns)}; needs text,label or premise,hypothesis,label, "
        f"got {','.join(columns) or 'nothing'}"
    )


def _own_row(record: Mapping[str, Any], fields: tuple[str, ...], where: str) -> Row:
    if missing := [name for name in (*fields, "label") if name not in record]:
        raise SpecError(f"{where}: no '{missing[0]}'{did_you_mean(missing[0], record)}")
    texts = {name: _own_text(record[name], name, where) for name in fields}
    label = record["label"]
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    return Row(texts, where, label=" ".join(_own_text(label, "label", where).split()))


def _own_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{where}: {name} must be a text that is not empty, got {value!r}")
    return value


# -- GLUE ---------------------------------------------------------------------------------------------------------------


def _glue_rows(text: str, path: Path, kind: str, skip_broken: bool) -> Iterator[Row]:
    """Cells are what stands between tabs: the official files quote nothing, and single quotation marks are text."""
    glue = GLUE[kind]
    lines = [line.rstrip("\r").split("\t") for line in text.rstrip("\n").split("\n")]
    if "index" in lines[0] and glue.label not in lines[0]:
        raise SpecError(
            f"{path}:1: has no labels, as GLUE's test files: take the train or dev file"
        )
    header = list(glue.columns or lines[0])
    if missing := [column for column in (*glue.texts.values(), glue.label) if column not in header]:
        raise SpecError(
            f"{path}:1: no column '{missing[0]}'{did_you_mean(missing[0], header)}, which {kind} needs"
        )
    for number, cells in enumerate(lines, start=1):
        if number == 1 and glue.columns is None:
            continue
        if len(cells) == len(header):
            yield _glue_row(dict(zip(header, cells, strict=True)), glue, f"{path}:{number}")
        elif not skip_broken:
            raise SpecError(
                f"{path}:{number}: has {len(cells)} columns, not {len(header)}; skip_broken=True leaves it out"
            )


def _glue_row(cells: Mapping[str, str], glue: GlueFile, where: str) -> Row:
    texts = {name: cells[column].strip() for name, column in glue.texts.items()}
    if empty := [name for name, text in texts.items() if not text]:
        raise SpecError(f"{where}: {empty[0]} is empty")
    label = cells[glue.label].strip()
    if not glue.names:
        score = _similarity(label, where)
        return Row(texts, where, label=str(math.floor(score + 0.5)), score=score)
    if label not in glue.names:
        raise SpecError(f"{where}: {glue.label} is {label!r}, not one of {', '.join(glue.names)}")
    return Row(texts, where, label=glue.names[label])


def _similarity(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise SpecError(f"{where}: score must be a number from 0 to 5, got {text!r}")
    return score
