"""Labelled texts and questions, and the checks that readers of several formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import SpecError, did_you_mean
from envgym.text import clean_value

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

    def __post_init__(self) -> None:
        for name in ("texts", "label", "answers"):
            object.__setattr__(self, name, clean_value(getattr(self, name)))


def read_text(path: Path) -> str:
    """Return a UTF-8 file without its byte order mark. Raises SpecError."""
    try:
        return path.read_text(encoding="utf-8-sig")  # MRPC's files start with a byte order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SpecError(
            f"{path}: is not UTF-8 (byte {error.start}, line {line}). Convert it, for example: "
            f"iconv -f latin1 -t utf8 {path.name}"
        ) from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def text_columns(columns: list[str], where: str) -> tuple[str, ...]:
    """Return the names of the text columns. Raise SpecError if a column is missing."""
    found = next((fields for fields in FIELDS if set(fields) <= set(columns)), None)
    if found and "label" in columns:
        return found
    missing = "label" if found else "text"
    raise SpecError(
        f"{where}: no '{missing}'{did_you_mean(missing, columns)}; "
        f"needs text,label or premise,hypothesis,label, got {','.join(columns) or 'no columns'}. "
        "For another format, name it with kind=..."
    )


def example_from_record(record: Mapping[str, Any], fields: tuple[str, ...], where: str) -> Example:
    """Return the example of one row. Raises SpecError if a text or the label is missing."""
    if missing := [name for name in (*fields, "label") if name not in record]:
        raise SpecError(f"{where}: no '{missing[0]}'{did_you_mean(missing[0], record)}")
    texts = {name: _text(record[name], name, where) for name in fields}
    label = record["label"]
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    return Example(texts, where, label=" ".join(_text(label, "label", where).split()))


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{where}: {name} must be a non-empty text, got {value!r}")
    return value
