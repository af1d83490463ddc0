"""Metrics of the GLUE tasks and the overall benchmark score, from predictions and labels.

>>> task_score("rte", ["entailment", "entailment"], ["entailment", "not_entailment"])
{'accuracy': 0.5, 'score': 0.5}

Scores are fractions, not per cent; correlations range from -1 to 1. The tests compare the formulas
with SciPy and scikit-learn if these are installed. Not supported: the diagnostic set AX.
Source: GLUE, arXiv 1804.07461, section 3 and table 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from envgym.errors import UsageError, did_you_mean

Labels = Sequence[Any]
"""One label per example: integers or strings, or numbers for correlations."""


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Return the fraction of predictions that equal their label.

    Raises:
        UsageError: If the lists cannot be compared.
    """
    _check(predictions, labels)
    return sum(guess == label for guess, label in zip(predictions, labels, strict=True)) / len(
        labels
    )


def f1(predictions: Labels, labels: Labels, *, positive: Any = 1) -> float:
    """Return the F1 of the positive label; 0.0 if it occurs in neither predictions nor labels.

    Raises:
        UsageError: If the lists cannot be compared or have more than two labels.
    """
    hits, false_alarms, misses, _ = _confusion(predictions, labels, positive)
    return 2 * hits / (2 * hits + false_alarms + misses) if hits else 0.0


def matthews(predictions: Labels, labels: Labels, *, positive: Any = 1) -> float:
    """Return the Matthews correlation of two binary lists, from -1.0 to 1.0.

    It is 0.0 if either list contains one label only, the usual convention for a zero denominator.

    Raises:
        UsageError: If the lists cannot be compared or have more than two labels.

    References:
        Matthews 1975, BBA 405:442-451.
    """
    hits, false_alarms, misses, rest = _confusion(predictions, labels, positive)
    square = (hits + false_alarms) * (hits + misses) * (rest + false_alarms) * (rest + misses)
    return (hits * rest - false_alarms * misses) / math.sqrt(square) if square else 0.0


def pearson(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Return the linear correlation, from -1.0 to 1.0; 0.0 if all predictions are equal.

    Raises:
        UsageError: If there are fewer than two pairs, a number is not finite, or all labels are
            equal.
    """
    _check_numbers(predictions, labels)
    return _correlation(predictions, labels)


def spearman(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Return the Pearson correlation of the ranks; equal values share their mean rank.

    See `pearson` for the errors.
    """
    _check_numbers(predictions, labels)
    return _correlation(ranks(predictions), ranks(labels))


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    for place, value in enumerate(ordered, start=1):
        first.setdefault(value, place)
    # `dict` keeps the last rank of a value.
    last = dict(zip(ordered, range(1, len(ordered) + 1), strict=True))
    return [(first[value] + last[value]) / 2 for value in values]


METRICS: dict[str, dict[str, Callable[[Any, Any], float]]] = {
    "cola": {"matthews": matthews},
    "sst2": {"accuracy": accuracy},
    "mrpc": {"accuracy": accuracy, "f1": f1},
    "qqp": {"accuracy": accuracy, "f1": f1},
    "stsb": {"pearson": pearson, "spearman": spearman},
    "mnli": {"matched": accuracy, "mismatched": accuracy},
    "qnli": {"accuracy": accuracy},
    "rte": {"accuracy": accuracy},
    "wnli": {"accuracy": accuracy},
}
"""Task -> its metrics. Those for `mnli` belong to two test sets; see `mnli_score`."""


def task_score(
    task: str, predictions: Labels, labels: Labels, *, positive: Any = 1
) -> dict[str, float]:
    """Return the metrics of one task, and their mean as `score`.

    Args:
        task: Key of `METRICS`, except `mnli`, which has two test sets; see `mnli_score`.
        positive: Positive label of F1 and Matthews: `acceptable`, `equivalent`, `duplicate`, or 1.

    Raises:
        UsageError: If the task is unknown or the lists cannot be compared.
    """
    if task not in METRICS:
        raise UsageError(
            f"unknown GLUE task '{task}'{did_you_mean(task, METRICS)}; "
            f"available: {', '.join(METRICS)}"
        )
    if task == "mnli":
        raise UsageError(
            "mnli has a matched and a mismatched test set. "
            "Call mnli_score(matched=(...), mismatched=(...))"
        )
    metrics = {
        name: _apply(metric, predictions, labels, positive)
        for name, metric in METRICS[task].items()
    }
    return metrics | {"score": statistics.fmean(metrics.values())}


def mnli_score(
    *, matched: tuple[Labels, Labels], mismatched: tuple[Labels, Labels]
) -> dict[str, float]:
    """Return the accuracy on both sets, each given as (predictions, labels), and their mean."""
    both = {"matched": accuracy(*matched), "mismatched": accuracy(*mismatched)}
    return both | {"score": statistics.fmean(both.values())}


def overall(scores: Mapping[str, float]) -> float:
    """Return the benchmark's score, the unweighted mean of the tasks' `score`.

    Args:
        scores: Task -> score, for all nine tasks.

    Raises:
        UsageError: If a task is missing or unknown, or a score is not finite.
    """
    if unknown := [task for task in scores if task not in METRICS]:
        raise UsageError(
            f"unknown GLUE task '{unknown[0]}'{did_you_mean(unknown[0], METRICS)}; "
            f"available: {', '.join(METRICS)}"
        )
    if missing := [task for task in METRICS if task not in scores]:
        raise UsageError(
            f"the overall score is the mean of all nine tasks; missing: {', '.join(missing)}"
        )
    if broken := [task for task, score in scores.items() if not math.isfinite(score)]:
        raise UsageError(
            f"score of {broken[0]} is {scores[broken[0]]}, but it must be a finite number"
        )
    return statistics.fmean(scores[task] for task in METRICS)


def _apply(
    metric: Callable[..., float], predictions: Labels, labels: Labels, positive: Any
) -> float:
    return (
        metric(predictions, labels, positive=positive)
        if metric in (f1, matthews)
        else metric(predictions, labels)
    )


def _confusion(predictions: Labels, labels: Labels, positive: Any) -> tuple[int, int, int, int]:
    """Return the counts of true positives, false positives, false negatives and true negatives.

    Raises:
        UsageError: If there are more than two labels.
    """
    _check(predictions, labels)
    kinds = set(labels) | set(predictions)
    if len(kinds) > 2:
        raise UsageError(
            f"at most two different labels are allowed, got {sorted(map(repr, kinds))}. "
            f"Map unreadable predictions to one of them"
        )
    if positive not in kinds and (
        len(kinds) == 2 or any(isinstance(kind, str) != isinstance(positive, str) for kind in kinds)
    ):
        raise UsageError(
            f"positive label {positive!r} is not among {sorted(map(repr, kinds))}. "
            f"Set it with positive=..."
        )
    pairs = [
        (guess == positive, label == positive)
        for guess, label in zip(predictions, labels, strict=True)
    ]
    return (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    if len(set(xs)) == 1:
        return 0.0
    return statistics.correlation(xs, ys)


def _check_numbers(predictions: Sequence[float], labels: Sequence[float]) -> None:
    _check(predictions, labels)
    if words := [value for value in (*predictions, *labels) if not isinstance(value, Real)]:
        raise UsageError(f"a correlation needs numbers, got {words[0]!r}")
    if len(labels) < 2:
        raise UsageError("a correlation needs at least two pairs")
    if len(set(labels)) == 1:
        raise UsageError(f"all labels are {labels[0]}: the correlation is undefined")


def _check(predictions: Labels, labels: Labels) -> None:
    """Check that two lists can be compared.

    Raises:
        UsageError: If their lengths differ or are 0, or a value is missing or not finite.
    """
    if len(predictions) != len(labels):
        raise UsageError(
            f"got {len(predictions)} predictions for {len(labels)} labels. "
            f"Pass one for each label, in order"
        )
    if not len(labels):
        raise UsageError("there is no prediction to score")
    for name, values in (("prediction", predictions), ("label", labels)):
        for place, value in enumerate(values):
            if value is None or (isinstance(value, Real) and not math.isfinite(value)):
                raise UsageError(f"{name} {place} (from 0) is {value}, which cannot be scored")
