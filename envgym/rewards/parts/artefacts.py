"""Rewards for artefacts: a chart, JSON, a table or a sentence, each against a truth in `extra`.

`draw.task(chart="<svg ...", sentence={"says": ["Figs", "3"], "never": ["Pears"]})`

An artefact is a text file (`file: chart.svg`, requires `state.files`) or the final message. A part
returns `None` if the task lacks its truth, and 0.0 if the artefact is missing or unreadable. An
invalid truth raises. Not supported: binary image files; the table `files` holds text only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envgym.dialects import without_reasoning
from envgym.errors import UsageError, did_you_mean
from envgym.modules import load_object
from envgym.rewards.evidence import Evidence
from envgym.rewards.scoring.facts import fraction_told
from envgym.rewards.scoring.json_and_tables import json_similarity, table_similarity
from envgym.rewards.scoring.pictures import ImageSimilarity, image_similarity, svg_similarity
from envgym.values import FLOAT_TOLERANCE

FILES = "files"
"""Table of the files under `state.files`; its key is the path."""


def image_match(
    evidence: Evidence,
    *,
    file: str | None = None,
    truth: str = "chart",
    similarity: str | None = None,
) -> float | None:
    """Return the visual similarity of an SVG and the true one, from 0.0 to 1.0.

    Args:
        file: Path of the SVG file. Default: the final message.
        truth: Key of the true SVG in the task's `extra`.
        similarity: Another measure of two PIL images, as `package.module:function`.

    Returns:
        Similarity from 0.0 to 1.0, or `None` if the task has no such truth.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    measure = _measure(similarity) if similarity else image_similarity
    return svg_similarity(
        _artefact(evidence, file), _of(str, wanted, truth, evidence), similarity=measure
    )


def json_match(
    evidence: Evidence,
    *,
    file: str | None = None,
    truth: str = "summary",
    schema: Mapping[str, Any] | None = None,
    tolerance: float = FLOAT_TOLERANCE,
) -> float | None:
    """Return the fraction of the true JSON value that is right.

    Args:
        file: Path of the JSON file. Default: the final message.
        truth: Key of the true value in the task's `extra`: any JSON value except null.
        schema: JSON Schema of the value.
        tolerance: Relative tolerance of numbers that are not whole.

    Returns:
        Fraction from 0.0 to 1.0; 0.0 if the text is not JSON or violates the schema. `None` if the
        task has no such truth.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    return json_similarity(_artefact(evidence, file), wanted, schema, tolerance=tolerance)


def table_match(
    evidence: Evidence,
    *,
    file: str | None = None,
    truth: str = "table",
    ordered: bool = True,
    tolerance: float = FLOAT_TOLERANCE,
) -> float | None:
    """Return the F1 of the cells of a CSV table.

    Args:
        file: Path of the CSV file. Default: the final message.
        truth: Key of the true rows in the task's `extra`: a list of mappings, column -> value. A
            value that is a text in the truth compares as text, even if it looks like a number.
        ordered: Compare rows by position. False pairs each row with its best match.
        tolerance: Relative tolerance of numbers that are not whole.

    Returns:
        F1 from 0.0 to 1.0, or `None` if the task has no such truth.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    return table_similarity(
        _artefact(evidence, file),
        _of(list, wanted, truth, evidence),
        ordered=ordered,
        tolerance=tolerance,
    )


def sentence_match(
    evidence: Evidence, *, file: str | None = None, truth: str = "sentence", max_words: int = 40
) -> float | None:
    """Return the fraction of the required facts that a sentence contains.

    Args:
        file: Path of the text file. Default: the final message.
        truth: Key of `{"says": [...], "never": [...]}` in the task's `extra`. See `facts_told`.
        max_words: Maximum number of words. A longer sentence gets 0.0.

    Returns:
        Fraction from 0.0 to 1.0; 0.0 if a fact of `never` occurs. `None` if the task has no such
        truth.

    Raises:
        UsageError: If the truth has another form.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    facts = _of(dict, wanted, truth, evidence)
    if not facts.get("says") or facts.keys() - {"says", "never"}:
        raise UsageError(
            f"task '{evidence.task.id}': extra['{truth}'] must be "
            f"{{'says': [...], 'never': [...]}}, got {facts}"
        )
    text = _artefact(evidence, file)
    if _told(text, facts.get("never", ()), max_words):
        return 0.0
    return _told(text, facts["says"], max_words)


def artefacts_match(evidence: Evidence, **parts: Mapping[str, Any]) -> float:
    """Return 1.0 if each part that applies reaches its bar and no unexpected row changed.

    Args:
        parts: Part of this module -> its options and `bar` (default 1.0), such as `{image_match:
            {file: chart.svg, bar: 0.99}, sentence_match: {}}`.

    Returns:
        1.0 or 0.0; 0.0 if no part applies.

    Raises:
        UsageError: If a part is unknown.
    """
    if unknown := sorted(parts.keys() - _PARTS.keys()):
        raise UsageError(
            f"artefacts_match: no part '{unknown[0]}'{did_you_mean(unknown[0], _PARTS)}; "
            f"available: {', '.join(_PARTS)}"
        )
    reached = [_reaches(evidence, name, **options) for name, options in parts.items()]
    applying = [value for value in reached if value is not None]
    return float(bool(applying) and all(applying) and evidence.verdict.is_exact)


_PARTS = {part.__name__: part for part in (image_match, json_match, table_match, sentence_match)}


def _reaches(evidence: Evidence, name: str, *, bar: float = 1.0, **options: Any) -> bool | None:
    value = _PARTS[name](evidence, **options)
    return None if value is None else value >= bar


def _artefact(evidence: Evidence, file: str | None) -> str:
    """Return the text of a changed file or of the final message.

    If the message contains exactly one code block, only this block is returned. A missing file is
    empty.
    """
    if file is None:
        blocks = re.findall(
            r"^```[^\n]*\n(.*?)^```", evidence.final_message, re.DOTALL | re.MULTILINE
        )
        return blocks[0] if len(blocks) == 1 else evidence.final_message.strip()
    written = (
        row.after.get("text", "")
        for row in evidence.changed_rows
        if row.table == FILES and row.key == file
    )
    return next(written, "")


def _told(text: str, facts: Any, max_words: int) -> float | None:
    """Return the fraction of the facts that a text tells; `None` without facts."""
    if not facts:
        return None
    return fraction_told(without_reasoning(text), tuple(map(str, facts)), max_words=max_words)


def _of(kind: type, value: Any, truth: str, evidence: Evidence) -> Any:
    if not isinstance(value, kind):
        raise UsageError(
            f"task '{evidence.task.id}': extra['{truth}'] must be a {kind.__name__}, "
            f"got {str(value)[:80]!r}"
        )
    return value


@functools.cache
def _measure(reference: str) -> ImageSimilarity:
    return load_object(reference, Path())
