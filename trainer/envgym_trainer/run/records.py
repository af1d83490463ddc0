"""Read and write the JSONL files of a run folder: one JSON object per line, each with a step.

Lines are appended whole and flushed one by one, so a killed run has at most one incomplete line.
Readers skip it.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.text import to_json
from envgym_trainer.files import write_atomic

Line = dict[str, Any]


def append_lines(file: Path, lines: Iterable[str]) -> None:
    """Append lines. An incomplete last line of a killed run is ended first."""
    # Open the file for each call, so that no data is buffered when the process dies.
    is_torn = file.exists() and file.stat().st_size > 0 and not _ends_with_newline(file)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if is_torn else "") + "".join(line + "\n" for line in lines))


def read_lines(file: Path) -> Iterator[Line]:
    """Yield all complete lines, oldest first. A file that does not exist has none."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                # The line is incomplete because the process was killed while writing.
                continue
            if isinstance(record, dict):
                yield record


def drop_later_lines(file: Path, step: int) -> None:
    """Drop incomplete lines and lines of steps after `step`."""
    kept = [to_json(line) for line in read_lines(file) if line["step"] <= step]
    write_atomic(file, "".join(line + "\n" for line in kept))


def metrics_line(line: Mapping[str, Any]) -> str:
    """Return a line of `metrics.jsonl`.

    A number that is not finite becomes null, because JSON cannot express it.
    """
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
    return to_json(finite)


def episode_line(episode: Episode, *, step: int, phase: str, excluded: str) -> str:
    """Return a line of `episodes.jsonl`: step, phase and exclusion, then the episode's fields."""
    head = {"step": int(step), "phase": phase} | ({"excluded": excluded} if excluded else {})
    return to_json(head)[:-1] + "," + episode.to_json()[1:]


def read_episodes(file: Path) -> Iterator[tuple[int, str, Episode]]:
    """Yield step, phase and episode for each line of `episodes.jsonl`, oldest first."""
    for line in read_lines(file):
        yield line["step"], line["phase"], _episode(line)


def find_episodes(file: Path, names: Iterable[str]) -> dict[str, Episode]:
    """Return the training episodes with these ids. `12:3` is the third line of step 12.

    Ids that do not exist are skipped.
    """
    wanted = set(names)
    found = dict[str, Episode]()
    counts = Counter[int]()
    for line in _training_lines(file) if wanted else ():
        counts[line["step"]] += 1
        if (name := f"{line['step']}:{counts[line['step']]}") in wanted:
            found[name] = _episode(line)
    return found


def training_episodes(
    file: Path, step: int | None = None
) -> tuple[list[int], list[tuple[Episode, str]]]:
    """Return the steps that have training episodes, and the episodes of one of them.

    Args:
        file: Path of `episodes.jsonl`.
        step: Step of the episodes. Default: the last one.

    Returns:
        The steps, and the step's episodes with the reason if one was excluded from training.
    """
    steps = list[int]()
    lines = list[Line]()
    for line in _training_lines(file):
        if line["step"] not in steps[-1:]:
            steps.append(line["step"])
            # Keep only the lines of the last step, to save memory.
            lines = [] if step is None else lines
        if step in (None, line["step"]):
            lines.append(line)
    return steps, [(_episode(line), line.get("excluded", "")) for line in lines]


def _training_lines(file: Path) -> Iterator[Line]:
    return (line for line in read_lines(file) if line["phase"] == "grpo")


def _episode(line: Line) -> Episode:
    return Episode.from_dict(line)


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
