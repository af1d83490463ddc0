"""Tasks from data in ToolRL's format: one prompt and one answer, compared with a given truth.

>>> rows = rows_from("envs/toolrl/rows.jsonl")
>>> masked = row_template("masked", rows, masked=True)  # random names of tools

Not supported: parquet. Convert it with `pandas.read_parquet(file).to_json(out, orient="records",
lines=True)`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.rewards.scoring.toolrl import truth_calls
from envgym.tasks import SPLITS, Draw, Split, Task, Template, stable_seed
from envgym.tasksets.dialogue_traces import steps_of
from envgym.tasksets.toolrl_example import ToolRLExample
from envgym.tasksets.toolrl_variants import masked_row
from envgym.text import clean_value


def rows_from(path: str | Path, *, skip_unreadable: bool = False) -> tuple[ToolRLExample, ...]:
    """Read the rows of a JSON, JSONL or CSV file and check each truth.

    Rows may be ToolRL's, raw (`instruction input output`) or for verl (`prompt reward_model`), rows
    of `system user truth`, or whole traces, of which each assistant step becomes a row.

    Args:
        path: File to read.
        skip_unreadable: Whether to skip rows with malformed calls in the truth. ToolRL's set for
            supervised training has some: thoughts that quote a `<tool_call>`.

    Returns:
        The rows in the order of the file.

    Raises:
        UsageError: If a row is invalid; the message begins with `file:line` (`file: row 3` for a
            JSON list).
    """
    path = Path(path)
    rows = [row for where, record in _records(path) for row in _rows_of(record, where)]
    rows = [row for row in rows if _is_readable(row, skip=skip_unreadable)]
    if not rows:
        raise UsageError(f"{path}: contains no rows")
    return tuple(rows)


def row_template(
    name: str,
    rows: Sequence[ToolRLExample],
    *,
    level: str = "",
    masked: bool = False,
    val: float = 0.1,
    test: float = 0.1,
) -> Template:
    """Build a template whose task `split/name/index` is row `index` of that split.

    In training, the index wraps around after the last row.

    Args:
        name: Name of the template.
        rows: Rows of all splits.
        level: Difficulty label.
        masked: Whether each task gets random tool names (Hammer, arXiv 2410.04587), different for
            each index.
        val: Fraction of groups without a given split that is used for validation.
        test: Fraction of groups without a given split that is used for test.

    Raises:
        SpecError: When a task is drawn, if there are more val or test tasks than rows.
    """
    own = {
        split: [row for row in rows if split_of(row, val=val, test=test) == split]
        for split in SPLITS
    }

    def make(draw: Draw) -> Task:
        row = _row_at(draw, own[draw.split])
        row = masked_row(row, draw.rng) if masked else row
        return draw.task(
            prompt=row.prompt,
            final=row.truth,
            tools=(),
            truth=row.truth,
            where=Path(row.where).name,
        )

    return Template(name, level, tuple(split for split in SPLITS if own[split]), make)


def _row_at(draw: Draw, rows: Sequence[ToolRLExample]) -> ToolRLExample:
    index = int(draw.id.rpartition("/")[2])
    if draw.split != "train" and index >= len(rows):
        raise SpecError(
            f"task '{draw.id}': there are {len(rows)} rows for this template and split; "
            f"lower tasks.{draw.split}"
        )
    return rows[index % len(rows)]


def split_of(row: ToolRLExample, *, val: float, test: float) -> Split:
    """Return the split by a hash of the group, so that adding rows does not move existing ones."""
    if row.split is not None:
        return row.split
    drawn = stable_seed("toolrl", row.group) / 2**31
    return "test" if drawn < test else "val" if drawn < test + val else "train"


# -- files ----------------------------------------------------------------------------------------


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    if path.suffix not in readers:
        raise UsageError(
            f"{path}: rows are read from {', '.join(readers)}, not from '{path.suffix}'"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    for where, record in readers[path.suffix](path, text):
        if not isinstance(record, dict):
            raise UsageError(f"{where}: a row must be an object, got {type(record).__name__}")
        yield where, record


def _jsonl(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines: a JSON string may contain other line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    records = _parsed(text, str(path))
    if not isinstance(records, list):
        raise UsageError(f"{path}: must hold a list of rows, got {type(records).__name__}")
    return ((f"{path}: row {number}", record) for number, record in enumerate(records, start=1))


def _csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for record in reader:
        yield f"{path}:{reader.line_num}", record


def _parsed(text: str, where: str) -> Any:
    try:
        return clean_value(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid JSON: {error}") from None


# -- rows -----------------------------------------------------------------------------------------


def _rows_of(record: dict[str, Any], where: str) -> Iterator[ToolRLExample]:
    split = record.get("split") or (record.get("extra_info") or {}).get("split") or None
    if split is not None and split not in SPLITS:
        raise UsageError(
            f"{where}: split is {split!r}{did_you_mean(split, SPLITS)}; "
            f"available: {', '.join(SPLITS)}"
        )
    if "messages" in record or "dialogue" in record:
        steps = steps_of(record, where)
        yield from (ToolRLExample(*step, where, _opening(steps[0][1]), split) for step in steps)
    else:
        system, user, truth = _fields(record, where)
        yield ToolRLExample(system, user, truth, where, _opening(user), split)


def _opening(user: str) -> str:
    """Return the first request of a dialogue, or the whole text if it has no tags.

    All steps of one dialogue share the first request.
    """
    return user.partition("</user>")[0]


def _fields(record: dict[str, Any], where: str) -> tuple[str, str, str]:
    """Return system text, user text and truth of a row in any of the formats."""
    if "prompt" in record:
        try:
            said = {message["role"]: message["content"] for message in record["prompt"]}
            found = said.get("system", ""), said["user"], record["reward_model"]["ground_truth"]
        except (TypeError, KeyError) as error:
            raise UsageError(
                f"{where}: `prompt` must list messages and `reward_model` must contain "
                f"`ground_truth`: {error!r}"
            ) from None
        if len(said) < len(record["prompt"]) or said.keys() - {"system", "user"}:
            raise UsageError(
                f"{where}: `prompt` must contain one user message, "
                "optionally after one system message"
            )
    else:
        names = (
            ("instruction", "input", "output")
            if "instruction" in record
            else ("system", "user", "truth")
        )
        if missing := [name for name in names[1:] if name not in record]:
            raise UsageError(
                f"{where}: no '{missing[0]}'; a row has {', '.join(names)}, "
                "or is a trace with messages or dialogue"
            )
        found = record.get(names[0], ""), record[names[1]], record[names[2]]
    if not all(isinstance(text, str) for text in found):
        raise UsageError(f"{where}: system text, user text and truth must be strings")
    return found


def _is_readable(row: ToolRLExample, *, skip: bool) -> bool:
    if not row.user.strip() or not row.truth.strip():
        raise UsageError(
            f"{row.where}: the {'truth' if row.user.strip() else 'user text'} is empty"
        )
    try:
        truth_calls(row.truth)
    except UsageError as error:
        if skip:
            return False
        raise UsageError(f"{row.where}: {error}") from None
    return True
