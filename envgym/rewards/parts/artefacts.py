"""Rewards for artefacts of several kinds: a chart, JSON, a table, a sentence, each against a truth in the task's `extra`.

An artefact is a text file that the episode wrote (`file: chart.svg`, in an environment with `state.files`), or the final
message. A task without the part's truth is none of its business (None); an artefact that is missing or unreadable is the
model's mistake (0.0); a truth that makes no sense is an error.

    draw.task(..., chart="<svg ...", summary={"total": 31}, sentence={"says": ["Figs", "3"], "never": ["Pears"]})

Not covered: pictures in binary files; the table `files` holds only the text of files.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envgym.errors import UsageError, did_you_mean
from envgym.rewards.parts.final_message import facts_told
from envgym.rewards.rubric import Evidence
from envgym.rewards.scoring.json_and_tables import json_similarity, table_similarity
from envgym.rewards.scoring.pictures import ImageSimilarity, image_similarity, svg_similarity
from envgym.spec.yaml_file import load_object

FILES = "files"
"""The table in which `state.files` shows what became of a file; its key is the path."""


def image_match(
    evidence: Evidence,
    *,
    file: str | None = None,
    truth: str = "chart",
    similarity: str | None = None,
) -> float | None:
    """How alike the SVG looks to the true one, from 0.0 to 1.0.

    Args:
        file: where the episode wrote it; None for the final message.
        truth: key of the true SVG in the task's `extra`.
        similarity: another measure, as `package.module:function` of two PIL images.
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
) -> float | None:
    """Share of the true JSON value that is right; 0.0 for text that is no JSON or does not meet the schema.

    Args:
        file, truth: as for `image_match`; the truth is any JSON value but null.
        schema: JSON Schema of the value.
    """
    wanted = evidence.task.extra.get(truth)
    return None if wanted is None else json_similarity(_artefact(evidence, file), wanted, schema)


def table_match(
    evidence: Evidence, *, file: str | None = None, truth: str = "table", ordered: bool = True
) -> float | None:
    """F1 of the cells of a CSV table.

    Args:
        file, truth: as for `image_match`; the truth is a list of rows, each column -> value.
        ordered: whether the order of the rows counts.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    return table_similarity(
        _artefact(evidence, file), _of(list, wanted, truth, evidence), ordered=ordered
    )


def sentence_match(
    evidence: Evidence, *, file: str | None = None, truth: str = "sentence", max_words: int = 40
) -> float | None:
    """Share of the facts that a sentence says; 0.0 where it says one that is wrong, or runs on for more than `max_words`.

    Args:
        file, truth: as for `image_match`; the truth is `{"says": [...], "never": [...]}`, each fact as in `facts_told`.
    """
    wanted = evidence.task.extra.get(truth)
    if wanted is None:
        return None
    facts = _of(dict, wanted, truth, evidence)
    if not facts.get("says") or facts.keys() - {"says", "never"}:
        raise UsageError(
            f"task '{evidence.task.id}': extra['{truth}'] must be {{'says': [...], 'never': [...]}}, got {facts}"
        )
    text = _artefact(evidence, file)
    if _told(evidence, text, facts.get("never", ()), max_words):
        return 0.0
    return _told(evidence, text, facts["says"], max_words)


def artefacts_match(evidence: Evidence, **parts: Mapping[str, Any]) -> float:
    """1.0 when every part that applies reaches its bar and no file or row changed that the task did not expect; else 0.0.

    Args:
        parts: part of this module -> its options, and `bar` (1.0 by default), as in
            `{image_match: {file: chart.svg, bar: 0.99}, sentence_match: {}}`.
    Raises: UsageError for another part.
    """
    if unknown := sorted(parts.keys() - _PARTS.keys()):
        raise UsageError(
            f"artefacts_match: no part '{unknown[0]}'{did_you_mean(unknown[0], _PARTS)}. There are {', '.join(_PARTS)}"
        )
    reached = [_reaches(evidence, name, **options) for name, options in parts.items()]
    applying = [value for value in reached if value is not None]
    return float(bool(applying) and all(applying) and evidence.verdict.exact)


_PARTS = {part.__name__: part for part in (image_match, json_match, table_match, sentence_match)}


def _reaches(evidence: Evidence, name: str, *, bar: float = 1.0, **options: Any) -> bool | None:
    value = _PARTS[name](evidence, **options)
    return None if value is None else value >= bar


def _artefact(evidence: Evidence, file: str | None) -> str:
    """The text of a file that was written, or of the final message (of its code block, where it has just one); else empty."""
    if file is None:
        blocks = re.findall(r"^```[^\n]*\n(.*?)^```", evidence.final, re.DOTALL | re.MULTILINE)
        return blocks[0] if len(blocks) == 1 else evidence.final.strip()
    written = (
        row.after.get("text", "") for row in evidence.rows if row.table == FILES and row.key == file
    )
    return next(written, "")


def _told(evidence: Evidence, text: str, facts: Any, max_words: int) -> float | None:
    """`facts_told` of another text and other facts."""
    task = replace(evidence.task, facts=tuple(map(str, facts)))
    return facts_told(replace(evidence, task=task, final=text), max_words=max_words)


def _of(kind: type, value: Any, truth: str, evidence: Evidence) -> Any:
    if not isinstance(value, kind):
        raise UsageError(
            f"task '{evidence.task.id}': extra['{truth}'] must be a {kind.__name__}, got {str(value)[:80]!r}"
        )
    return value


@functools.cache
def _measure(reference: str) -> ImageSimilarity:
    return load_object(reference, Path())
