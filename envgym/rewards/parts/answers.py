"""Rewards for what was answered: a short answer by the rules of SQuAD, a label, and the passages that are cited for it.

    reward:
      solved: {from: answer_cited, options: {v2: true, no_answer: not in the handbook, read_with: open_section}}
      answer_f1: {from: answer_f1, weight: 0.0, options: {v2: true, no_answer: not in the handbook}}

The truth is what a task's template hands over: `draw.task(..., answers=["25 days"], sources=["H12"])`, or `label="billing"` with
`labels=["billing", "delivery"]`. Judged is the final message without a leading `<think>` block; where a task has `sources`,
citations (`[H12]`, one id a bracket) are no words of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from envgym.dialects import parse
from envgym.errors import SpecError
from envgym.rewards.rubric import Evidence
from envgym.rewards.scoring import squad

_CITATION = re.compile(r"\[([^\[\]\s]+)\]")


def answer_exact(
    evidence: Evidence, *, v2: bool = False, no_answer: str = "unanswerable"
) -> float | None:
    """SQuAD's exact match of the final message with the best of `answers`; None for a task without this truth.

    Args:
        v2: the rules of SQuAD 2.0, under which `answers` may be empty.
        no_answer: words that say a question cannot be answered. They must be said: silence is never right.
    """
    return _squad(evidence, squad.exact, v2, no_answer)


def answer_f1(
    evidence: Evidence, *, v2: bool = False, no_answer: str = "unanswerable"
) -> float | None:
    """SQuAD's F1 of the final message with the best of `answers`; arguments and None as of `answer_exact`."""
    return _squad(evidence, squad.f1, v2, no_answer)


def label_right(evidence: Evidence) -> float | None:
    """1.0 when the final message names the task's `label` and none of its other `labels`; None for a task without this truth.

    A label is named where it stands as a whole word, in any case; a hyphen or an underscore makes one word of two, and of
    `duplicate` and `not duplicate` the longer one counts. What surrounds it is not understood: "not spam" names `spam`, so ask
    for the label alone.
    """
    label = evidence.task.extra.get("label")
    if label is None:
        return None
    labels = _texts(evidence, "labels")
    if label not in labels or len({name.casefold() for name in labels}) < len(labels):
        raise SpecError(
            f"task '{evidence.task.id}': label {label!r} must be one of its labels, all of them different: {labels}"
        )
    return float(_labels_named(_answer(evidence), labels) == {label})


def cites(evidence: Evidence, *, read_with: str | None = None) -> float | None:
    """F1 of the passages cited in the final message, such as `[H12] [H31]`, with the task's `sources`; None where it needs none.

    Args:
        read_with: a tool that opens a passage. What is cited without a successful call with this id counts as wrong.
    """
    if "sources" not in evidence.task.extra or not (sources := set(_texts(evidence, "sources"))):
        return None
    cited = set(_CITATION.findall(_answer(evidence)))
    right = cited & sources
    if read_with is not None:
        right &= _opened(evidence, read_with)
    return 2 * len(right) / (len(cited) + len(sources))


def answer_cited(
    evidence: Evidence,
    *,
    v2: bool = False,
    no_answer: str = "unanswerable",
    read_with: str | None = None,
) -> float | None:
    """1.0 when the answer is exactly right and exactly the needed passages are cited, else 0.0; None without `answers`."""
    found = answer_exact(evidence, v2=v2, no_answer=no_answer)
    return (
        None
        if found is None
        else float(found == 1.0 and cites(evidence, read_with=read_with) in (None, 1.0))
    )


def _squad(evidence: Evidence, score: Any, v2: bool, no_answer: str) -> float | None:
    if "answers" not in evidence.task.extra:
        return None
    golds = _texts(evidence, "answers")
    answer = _answer(evidence)
    said = squad.normalize(
        _CITATION.sub(" ", answer) if "sources" in evidence.task.extra else answer
    )
    if not said:
        return 0.0  # also where none is right: an episode that was cut off has not answered
    return score("" if v2 and said == squad.normalize(no_answer) else said, golds, v2=v2)


def _answer(evidence: Evidence) -> str:
    """The final message without a leading thought."""
    return parse(evidence.final, ()).content


def _labels_named(message: str, labels: Sequence[str]) -> set[str]:
    names = {" ".join(label.casefold().split()): label for label in labels}
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    whole = rf"(?<![\w-])(?<!\d[.,])(?:{longest_first})(?![\w-]|[.,]\d)"  # neither `1` of `1.5` nor `spam` of `non-spam`
    return {names[found] for found in re.findall(whole, " ".join(message.casefold().split()))}


def _opened(evidence: Evidence, tool: str) -> set[str]:
    calls = [record.call for record in evidence.calls if record.ok and record.call.name == tool]
    return {str(value) for call in calls for value in call.arguments.values()}


def _texts(evidence: Evidence, name: str) -> list[str]:
    """A list of texts in the task's truth. Raises SpecError, as this is the environment's mistake and not the model's."""
    found = evidence.task.extra.get(name)
    if not isinstance(found, list | tuple) or not all(
        isinstance(text, str) and text.strip() for text in found
    ):
        raise SpecError(
            f"task '{evidence.task.id}': its '{name}' must be a list of texts, got {found!r}"
        )
    return list(found)
