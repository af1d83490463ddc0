"""Train and dev files of GLUE. The test files have no labels.

Source: https://gluebenchmark.com (columns of each file).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from envgym.errors import SpecError, did_you_mean
from envgym.tasksets.examples import Example, read_text

ENDINGS = ()


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
KINDS = tuple(GLUE)


def read(path: Path, *, kind: str, skip_broken: bool = False) -> Iterator[Example]:
    """Yield the rows of a GLUE file.

    Cells are split at tabs only, because the official files use no quoting.

    Args:
        path: File to read.
        kind: One of `KINDS`.
        skip_broken: Whether to skip lines with a wrong number of columns. The official QQP file
            has some.
    """
    glue = GLUE[kind]
    lines = [line.rstrip("\r").split("\t") for line in read_text(path).rstrip("\n").split("\n")]
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
