"""Exact match and F1 of extractive question answering, by the rules of the official SQuAD scripts, versions 1.1 and 2.0.

    exact("The Eiffel Tower!", ["Eiffel tower"])              1.0
    f1("in the Eiffel Tower", ["Eiffel Tower"])               0.8
    exact("", [], v2=True)                                    1.0: no gold answer, none given

Where the two versions differ: 2.0 drops golds that normalise to nothing, and where none is left only the empty answer is right;
1.1 has no unanswerable questions, and its F1 of two empty texts is 0.
Left out: the thresholds on no-answer probabilities that the 2.0 script can search for.

Source: Rajpurkar et al. 2016, arXiv 1606.05250, and 2018, arXiv 1806.03822; evaluate-v1.1.py and evaluate-v2.0.py at
https://rajpurkar.github.io/SQuAD-explorer/.
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
    """Lower case, then without ASCII punctuation, then without the words a, an, the, then with single spaces.

    The order counts: punctuation leaves no space behind, so `Eiffel-Tower` becomes `eiffeltower`, and `A.` is an article.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(prediction: str, golds: Sequence[str], *, v2: bool = False) -> float:
    """1.0 when the prediction, normalised, is one of the golds, else 0.0.

    Args:
        golds: right answers; none for an unanswerable question, which needs `v2`.
        v2: the rules of SQuAD 2.0.
    Raises: UsageError for golds that are no list of texts, or none by the rules of 1.1.
    """
    return max(float(normalize(prediction) == normalize(gold)) for gold in _effective(golds, v2))


def f1(prediction: str, golds: Sequence[str], *, v2: bool = False) -> float:
    """The best F1 over the golds of the words that prediction and gold share, as bags; 0.0 to 1.0.

    Args and raises: as of `exact`.
    """
    return max(
        _overlap(normalize(prediction).split(), normalize(gold).split(), v2)
        for gold in _effective(golds, v2)
    )


def _effective(golds: Sequence[str], v2: bool) -> Sequence[str]:
    """The golds that count; a single empty one for an unanswerable question."""
    if isinstance(golds, str) or not all(isinstance(gold, str) for gold in golds):
        raise UsageError(f"golds must be a list of texts, got {golds!r}")
    if v2:
        return [gold for gold in golds if normalize(gold)] or [""]
    if not golds:
        raise UsageError(
            "SQuAD 1.1 has no question without a gold answer; score unanswerable ones with v2=True"
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
    """Means over questions, in per cent as the official scripts print them."""

    exact: float
    f1: float
    total: int
    """Number of questions."""


def score_all(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], *, v2: bool = False
) -> dict[str, SquadScores]:
    """Scores a whole set.

    Args:
        predictions: question id -> answer; "" where the question is held to be unanswerable.
        golds: question id -> right answers.
    Returns: `all`, and for v2 also `answerable` and `unanswerable` (HasAns and NoAns of the script), where there are any.
    Raises: UsageError for a question without prediction, which the two scripts treat differently (0, or left out), and for
        no question at all.
    """
    if not golds:
        raise UsageError("there is no question to score")
    if missing := [question for question in golds if question not in predictions]:
        raise UsageError(
            f"no prediction for question '{missing[0]}' ({len(missing)} of {len(golds)} are missing)"
        )
    groups: dict[str, Callable[[str], bool]] = {"all": lambda question: True}
    if (
        v2
    ):  # by the list as it stands in the file, before empty golds are dropped, as the script has it
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
