"""Rewards for the final message: a short answer by the rules of SQuAD, a label, and citations.

    reward:
      solved: {from: answer_cited, options: {v2: true, no_answer: not in the handbook}}
      answer_f1: {from: answer_f1, weight: 0.0, options: {v2: true, no_answer: not in the handbook}}

The template gives the truth: `draw.task(..., answers=["25 days"], sources=["H12"])`, or
`label="billing"` with `labels=[...]`. A leading `<think>` block is ignored, and so are citations
(`[H12]`) if the task has `sources`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from envgym.dialects import without_reasoning
from envgym.errors import SpecError
from envgym.rewards.evidence import Evidence
from envgym.rewards.scoring import squad
from envgym.rewards.scoring.numbers_in_text import number_of, read

_CITATION = re.compile(r"\[([^\[\]\s]+)\]")
_SIGNED_OR_DECIMAL = re.compile(
    r"(?<![\w.,-])(?P<sign>-?)(?P<digits>(?:\d+(?:,\d{3})*)?\.\d+|(?<=-)\d+(?:,\d{3})*)"
    r"(?![\w-]|\.\d)"
)


def answer_exact(
    evidence: Evidence, *, v2: bool = False, no_answer: str = "unanswerable"
) -> float | None:
    """Return SQuAD's exact match with the best of `answers`.

    Unlike the official script, it keeps signs and decimal points of numbers: 1.5 differs from 15,
    and -5 from 5.

    Args:
        v2: Use the rules of SQuAD 2.0, which allow an empty `answers` for an unanswerable question.
        no_answer: Answer that counts as "unanswerable". An empty message is always wrong.

    Returns:
        1.0 or 0.0, or `None` if the task has no `answers`.

    Raises:
        SpecError: If `answers` is not a list of texts.
    """
    return _squad(evidence, squad.exact, v2, no_answer)


def answer_f1(
    evidence: Evidence, *, v2: bool = False, no_answer: str = "unanswerable"
) -> float | None:
    """Return SQuAD's F1 with the best of `answers`, or `None` if the task has no `answers`.

    See `answer_exact` for the arguments and errors.
    """
    return _squad(evidence, squad.f1, v2, no_answer)


def label_right(evidence: Evidence) -> float | None:
    """Return 1.0 if the final message names the task's `label` and no other of its `labels`.

    Labels that are numbers are matched by value, others as whole words without regard to case. A
    hyphen or an underscore joins words. If one label contains another, such as `not duplicate` and
    `duplicate`, the longer one counts.
    The context is ignored: "not spam" names `spam`, so the prompt must ask for the label alone.

    Returns:
        1.0 or 0.0, or `None` if the task has no `label`.

    Raises:
        SpecError: If `labels` lacks the label, or two labels differ in case only.
    """
    label = evidence.task.extra.get("label")
    if label is None:
        return None
    labels = _texts(evidence, "labels")
    if label not in labels or len({name.casefold() for name in labels}) < len(labels):
        raise SpecError(
            f"task '{evidence.task.id}': label {label!r} must be one of `labels`, and labels must "
            f"differ in more than case, got {labels}"
        )
    return float(_labels_named(_answer(evidence), labels) == {label})


def cites(evidence: Evidence, *, read_with: str | None = None) -> float | None:
    """Return the F1 of the passages cited in the final message, such as `[H12] [H31]`.

    Args:
        read_with: Tool that opens a passage. A passage that no successful call of it opened counts
            as wrong.

    Returns:
        F1 against the task's `sources`, from 0.0 to 1.0, or `None` if the task has no sources.
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
    """Return 1.0 if the answer matches exactly and exactly the required passages are cited.

    See `answer_exact` and `cites` for the arguments.

    Returns:
        1.0 or 0.0, or `None` if the task has no `answers`.
    """
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
    if "sources" in evidence.task.extra:
        answer = _CITATION.sub(" ", answer)
    said = squad.normalize(_spelled_out(answer))
    if not said:
        # An empty message is wrong even if no answer exists: a truncated episode has not answered.
        return 0.0
    golds = [_spelled_out(gold) for gold in golds]
    return score("" if v2 and said == squad.normalize(no_answer) else said, golds, v2=v2)


def _spelled_out(text: str) -> str:
    """Return text in which no sign or decimal point of a number is punctuation.

    A scorer that drops punctuation then tells 1.5 from 15, and -5 from 5.
    """

    def spell(numeral: re.Match[str]) -> str:
        whole, _, decimals = numeral["digits"].replace(",", "").partition(".")
        decimals = decimals.rstrip("0")
        words = ("minus" if numeral["sign"] else "") + (whole or "0")
        return words + (f"point{decimals}" if decimals else "")

    return _SIGNED_OR_DECIMAL.sub(spell, text.replace("\N{MINUS SIGN}", "-"))


def _answer(evidence: Evidence) -> str:
    """Return the final message without a leading `<think>` block."""
    return without_reasoning(evidence.final_message)


def _labels_named(message: str, labels: Sequence[str]) -> set[str]:
    numbers = {quantity for quantity in read(message).quantities}
    named = {
        label
        for label in labels
        if (number := number_of(label)) and any(each.tells(number) for each in numbers)
    }
    return named | _words_named(message, [label for label in labels if not number_of(label)])


def _words_named(message: str, labels: Sequence[str]) -> set[str]:
    names = {" ".join(label.casefold().split()): label for label in labels}
    if not names:
        return set()
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # The boundaries exclude the `1` of `1.5` and the `spam` of `non-spam`.
    whole = rf"(?<![\w-])(?<!\d[.,])(?:{longest_first})(?![\w-]|[.,]\d)"
    return {names[found] for found in re.findall(whole, " ".join(message.casefold().split()))}


def _opened(evidence: Evidence, tool: str) -> set[str]:
    calls = [record.call for record in evidence.calls if record.ok and record.call.name == tool]
    return {str(value) for call in calls for value in call.arguments.values()}


def _texts(evidence: Evidence, name: str) -> list[str]:
    """Return a list of texts from the task's truth.

    Raises:
        SpecError: If it is not a list of texts, which is a mistake of the environment.
    """
    found = evidence.task.extra.get(name)
    if not isinstance(found, list | tuple) or not all(
        isinstance(text, str) and text.strip() for text in found
    ):
        raise SpecError(
            f"task '{evidence.task.id}': extra['{name}'] must be a list of non-empty texts, "
            f"got {found!r}"
        )
    return list(found)
