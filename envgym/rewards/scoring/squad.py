"""Exact match and F1 by the rules of the official SQuAD scripts, versions 1.1 and 2.0.

>>> exact("The Eiffel Tower!", ["Eiffel tower"]), f1("in the Eiffel Tower", ["Eiffel Tower"])
(1.0, 0.8)

Version 2.0 drops gold answers that normalize to an empty text; if all are dropped, only the empty
answer is right. In version 1.1 every question has an answer, and the F1 of two empty texts is 0.
Not supported: the search for a no-answer threshold.
Source: arXiv 1606.05250 and 1806.03822; the scripts at https://rajpurkar.github.io/SQuAD-explorer/.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from envgym.errors import UsageError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Normalize an answer: lower case, no ASCII punctuation, no articles, single spaces.

    The order matters. Punctuation is removed without a space, so `Eiffel-Tower` becomes
    `eiffeltower` and `A.` is an article.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(prediction: str, golds: Sequence[str], *, v2: bool = False) -> float:
    """Return 1.0 if the normalized prediction equals a normalized gold answer, otherwise 0.0.

    Args:
        golds: Right answers; empty for an unanswerable question, which requires `v2`.
        v2: Use the rules of SQuAD 2.0.

    Raises:
        UsageError: If `golds` is not a list of texts, or is empty without `v2`.
    """
    return max(float(normalize(prediction) == normalize(gold)) for gold in _effective(golds, v2))


def f1(prediction: str, golds: Sequence[str], *, v2: bool = False) -> float:
    """Return the best F1 of the words of the prediction and a gold answer, from 0.0 to 1.0.

    Words are compared as bags. See `exact` for the arguments and errors.
    """
    return max(
        _overlap(normalize(prediction).split(), normalize(gold).split(), v2)
        for gold in _effective(golds, v2)
    )


def _effective(golds: Sequence[str], v2: bool) -> Sequence[str]:
    """Return the gold answers that count; a single empty one for an unanswerable question."""
    if isinstance(golds, str) or not all(isinstance(gold, str) for gold in golds):
        raise UsageError(f"golds must be a list of texts, got {golds!r}")
    if v2:
        return [gold for gold in golds if normalize(gold)] or [""]
    if not golds:
        raise UsageError(
            "SQuAD 1.1 has no unanswerable questions. Use v2=True to score a question without golds"
        )
    return golds


def _overlap(predicted: list[str], gold: list[str], v2: bool) -> float:
    if v2 and not (predicted and gold):
        return float(predicted == gold)
    shared = (Counter(predicted) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision = shared / len(predicted)
    recall = shared / len(gold)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, slots=True)
class SquadScores:
    """Means over questions in per cent, as in the official scripts."""

    exact: float
    f1: float
    total: int
    """Number of questions."""


def score_all(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], *, v2: bool = False
) -> dict[str, SquadScores]:
    """Score a whole data set.

    Args:
        predictions: Question id -> answer; "" predicts that the question is unanswerable.
        golds: Question id -> right answers.
        v2: Use the rules of SQuAD 2.0.

    Returns:
        Scores of `all`, and with `v2` of `answerable` and `unanswerable` (HasAns and NoAns of the
        script) if there are any.

    Raises:
        UsageError: If there is no question, or a question has no prediction. The two official
            scripts treat a missing prediction differently (0, or excluded).
    """
    if not golds:
        raise UsageError("there is no question to score")
    if missing := [question for question in golds if question not in predictions]:
        raise UsageError(
            f"no prediction for question '{missing[0]}' "
            f"({len(missing)} of {len(golds)} are missing)"
        )
    groups: dict[str, Callable[[str], bool]] = {"all": lambda question: True}
    if v2:
        # Like the script, this tests the list in the file, before empty gold answers are dropped.
        groups |= {
            "answerable": lambda question: bool(golds[question]),
            "unanswerable": lambda question: not golds[question],
        }
    chosen = {
        name: [question for question in golds if belongs(question)]
        for name, belongs in groups.items()
    }
    return {
        name: _mean(predictions, golds, questions, v2)
        for name, questions in chosen.items()
        if questions
    }


def _mean(
    predictions: Mapping[str, str],
    golds: Mapping[str, Sequence[str]],
    questions: Sequence[str],
    v2: bool,
) -> SquadScores:
    hits = [exact(predictions[question], golds[question], v2=v2) for question in questions]
    overlaps = [f1(predictions[question], golds[question], v2=v2) for question in questions]
    return SquadScores(
        100 * sum(hits) / len(hits), 100 * sum(overlaps) / len(overlaps), len(questions)
    )
