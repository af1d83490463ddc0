"""Data in ToolRL's form as tasks: one prompt, one answer, judged against a written truth.

    ROWS = rows_from("rows.jsonl")
    single = row_template("single", ROWS)
    masked = row_template("masked", ROWS, masked=True)                       # tool names replaced by random ones
    irrelevant = row_template("irrelevant", irrelevant_rows(ROWS))           # the tool that is needed is not there

`rows_from` reads JSON, JSONL and CSV: rows as ToolRL has them, raw (`instruction input output`) or for verl (`prompt
reward_model`), rows of `system user truth`, and whole traces, of which each step of the assistant becomes a row.

Left out: parquet (pandas writes it as JSONL: `pandas.read_parquet(file).to_json(out, orient="records", lines=True)`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.rewards.scoring.toolrl import truth_calls
from envgym.tasks import SPLITS, Draw, Split, Task, Template, stable_seed


@dataclass(frozen=True, slots=True)
class Row:
    """One step of a dialogue: what the model sees, and a right answer."""

    system: str
    """Instructions, with the tools as a list of `1. Name: ...`, `Description: ...`, `Parameters: ...`; may be empty."""
    user: str
    """The request, or the whole dialogue so far."""
    truth: str
    """Hidden: a right answer, `<think>...</think>` with `<tool_call>`, `<response>` or both."""
    where: str
    """`file:line`, for messages."""
    group: str
    """The request it begins with. Rows of one group go to the same split, so that no later step tells an earlier one's truth."""
    split: Split | None = None
    """Where the data themselves put it."""

    @property
    def prompt(self) -> str:
        """System and user text as one message, as a task has no system text of its own."""
        return f"{self.system.strip()}\n\n{self.user.strip()}".strip()


def rows_from(path: str | Path, *, skip_unreadable: bool = False) -> tuple[Row, ...]:
    """The rows of a file, each truth checked.

    Args:
        skip_unreadable: leaves out rows whose truth holds calls that cannot be read. ToolRL's own set for supervised training has
            some: thoughts that quote a `<tool_call>`.
    Raises: UsageError naming `file:line` (`file: row 3` for a JSON list) and what is wrong there.
    """
    path = Path(path)
    rows = [row for where, record in _records(path) for row in _rows_of(record, where)]
    rows = [row for row in rows if _is_readable(row, skip=skip_unreadable)]
    if not rows:
        raise UsageError(f"{path}: holds no rows")
    return tuple(rows)


def row_template(
    name: str,
    rows: Sequence[Row],
    *,
    level: str = "",
    masked: bool = False,
    val: float = 0.1,
    test: float = 0.1,
) -> Template:
    """A template whose task `split/name/index` is the row `index` of that split; in training it starts over after the last.

    Args:
        level: difficulty label.
        masked: every task has random tool names (Hammer, arXiv 2410.04587), others at each index.
        val, test: shares of the groups without a split of their own that are held out.
    Raises: when a task is drawn, SpecError for more val or test tasks than there are rows.
    """
    from envgym.tasksets.toolrl_variants import masked_row

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


def _row_at(draw: Draw, rows: Sequence[Row]) -> Row:
    index = int(draw.id.rpartition("/")[2])
    if draw.split != "train" and index >= len(rows):
        raise SpecError(
            f"task '{draw.id}': there are {len(rows)} rows for this template and split; lower tasks.{draw.split}"
        )
    return rows[index % len(rows)]


def split_of(row: Row, *, val: float, test: float) -> Split:
    """By a hash of the group, so that adding rows moves no other."""
    if row.split is not None:
        return row.split
    drawn = stable_seed("toolrl", row.group) / 2**31
    return "test" if drawn < test else "val" if drawn < test + val else "train"


# -- files -------------------------------------------------------------------------------------------------------------


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
    for number, line in enumerate(
        text.split("\n"), start=1
    ):  # not splitlines: a string may hold other line separators
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
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid JSON: {error}") from None


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows_of(record: dict[str, Any], where: str) -> Iterator[Row]:
    from envgym.tasksets.dialogue_traces import steps_of

    split = record.get("split") or (record.get("extra_info") or {}).get("split") or None
    if split is not None and split not in SPLITS:
        raise UsageError(
            f"{where}: split is {split!r}{did_you_mean(split, SPLITS)}; available: {', '.join(SPLITS)}"
        )
    if "messages" in record or "dialogue" in record:
        steps = steps_of(record, where)
        yield from (Row(*step, where, _opening(steps[0][1]), split) for step in steps)
    else:
        system, user, truth = _fields(record, where)
        yield Row(system, user, truth, where, _opening(user), split)


def _opening(user: str) -> str:
    """The first request of a dialogue, which all steps cut from it share; the whole text where it is not in tags."""
    return user.partition("</user>")[0]


def _fields(record: dict[str, Any], where: str) -> tuple[str, str, str]:
    """System text, user text and truth of a row, in whichever form."""
    if "prompt" in record:
        try:
            said = {message["role"]: message["content"] for message in record["prompt"]}
            found = said.get("system", ""), said["user"], record["reward_model"]["ground_truth"]
        except (TypeError, KeyError) as error:
            raise UsageError(
                f"{where}: `prompt` must list messages, `reward_model` hold `ground_truth`: {error!r}"
            ) from None
        if len(said) < len(record["prompt"]) or said.keys() - {"system", "user"}:
            raise UsageError(
                f"{where}: `prompt` must hold one message of the user, after one of the system or none"
            )
    else:
        names = (
            ("instruction", "input", "output")
            if "instruction" in record
            else ("system", "user", "truth")
        )
        if missing := [name for name in names[1:] if name not in record]:
            raise UsageError(
                f"{where}: no '{missing[0]}'; a row has {', '.join(names)}, or is a trace with messages or dialogue"
            )
        found = record.get(names[0], ""), record[names[1]], record[names[2]]
    if not all(isinstance(text, str) for text in found):
        raise UsageError(f"{where}: system text, user text and truth must be strings")
    return found


def _is_readable(row: Row, *, skip: bool) -> bool:
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
