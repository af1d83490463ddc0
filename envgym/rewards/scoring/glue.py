"""The metric of each GLUE task, and the benchmark's overall score, as functions of predictions and labels.

    task_score("mrpc", predictions, labels)      {"accuracy": ..., "f1": ..., "score": their mean}
    overall({"cola": 0.4, "sst2": 0.9, ...})     mean over tasks

All scores are shares (1.0 is perfect; correlations run from -1), not per cent. Own arithmetic: six formulas do not call for
SciPy and scikit-learn, which the tests compare them with where installed.
Left out: the diagnostic set AX and the submission format of the leaderboard.

Source: Wang et al. 2019, GLUE, arXiv 1804.07461, sec. 3 and table 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from envgym.errors import UsageError, did_you_mean

Labels = Sequence[Any]
"""One label an example: whole numbers or words; for correlations numbers."""


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Share of equal pairs. Raises UsageError for lists that cannot be compared."""
    _check(predictions, labels)
    return sum(guess == label for guess, label in zip(predictions, labels, strict=True)) / len(
        labels
    )


def f1(predictions: Labels, labels: Labels, *, positive: Any = 1) -> float:
    """Harmonic mean of precision and recall of the positive label; 0.0 where it was neither predicted nor there."""
    hits, false_alarms, misses, _ = _confusion(predictions, labels, positive)
    return 2 * hits / (2 * hits + false_alarms + misses) if hits else 0.0


def matthews(predictions: Labels, labels: Labels, *, positive: Any = 1) -> float:
    """Matthews' correlation of two binary lists, -1.0 to 1.0; 0.0 where either side knows one label only.

    Source: Matthews 1975, BBA 405:442-451; the 0 is the usual convention for a zero denominator.
    """
    hits, false_alarms, misses, rest = _confusion(predictions, labels, positive)
    square = (hits + false_alarms) * (hits + misses) * (rest + false_alarms) * (rest + misses)
    return (hits * rest - false_alarms * misses) / math.sqrt(square) if square else 0.0


def pearson(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Linear correlation, -1.0 to 1.0; 0.0 for predictions that are all alike.

    Raises: UsageError for fewer than two pairs, numbers that are not finite, and labels that are all alike.
    """
    _check_numbers(predictions, labels)
    return _correlation(predictions, labels)


def spearman(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Pearson's correlation of the ranks; equal values share their mean rank. Raises as `pearson`."""
    _check_numbers(predictions, labels)
    return _correlation(ranks(predictions), ranks(labels))


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 1; equal values share the mean of the ranks they take up."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    for place, value in enumerate(ordered, start=1):
        first.setdefault(value, place)
    last = dict(
        zip(ordered, range(1, len(ordered) + 1), strict=True)
    )  # the last place of a value wins
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
"""Task -> its metrics. The two of `mnli` belong to two test sets, see `mnli_score`."""


def task_score(
    task: str, predictions: Labels, labels: Labels, *, positive: Any = 1
) -> dict[str, float]:
    """The metrics of one task and under `score` their mean.

    Args:
        task: a key of `METRICS`, except `mnli`, which needs two sets: `mnli_score`.
        positive: the label that F1 and Matthews count as positive: `acceptable`, `equivalent`, `duplicate`, or 1.
    Raises: UsageError.
    """
    if task not in METRICS:
        raise UsageError(
            f"no GLUE task '{task}'{did_you_mean(task, METRICS)}; tasks: {', '.join(METRICS)}"
        )
    if task == "mnli":
        raise UsageError(
            "mnli is judged on a matched and a mismatched set: mnli_score(matched=(...), mismatched=(...))"
        )
    metrics = {
        name: _apply(metric, predictions, labels, positive)
        for name, metric in METRICS[task].items()
    }
    return metrics | {"score": statistics.fmean(metrics.values())}


def mnli_score(
    *, matched: tuple[Labels, Labels], mismatched: tuple[Labels, Labels]
) -> dict[str, float]:
    """Accuracy on both sets, each given as (predictions, labels), and under `score` their mean."""
    both = {"matched": accuracy(*matched), "mismatched": accuracy(*mismatched)}
    return both | {"score": statistics.fmean(both.values())}


def overall(scores: Mapping[str, float]) -> float:
    """The benchmark's score: the unweighted mean of the tasks' `score`.

    Args:
        scores: task -> its score; all nine, or the mean is of another benchmark.
    Raises: UsageError for a missing or an unknown task, and for a score that is no finite number.
    """
    if unknown := [task for task in scores if task not in METRICS]:
        raise UsageError(
            f"no GLUE task '{unknown[0]}'{did_you_mean(unknown[0], METRICS)}; tasks: {', '.join(METRICS)}"
        )
    if missing := [task for task in METRICS if task not in scores]:
        raise UsageError(
            f"the overall score is the mean of all nine tasks; missing: {', '.join(missing)}"
        )
    if broken := [task for task, score in scores.items() if not math.isfinite(score)]:
        raise UsageError(
            f"{broken[0]}: its score is {scores[broken[0]]}, which is no finite number"
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
    """True positives, false positives, false negatives, true negatives. Raises UsageError for more than two labels."""
    _check(predictions, labels)
    kinds = set(labels) | set(predictions)
    if len(kinds) > 2:
        raise UsageError(
            f"needs at most two different labels, got {sorted(map(repr, kinds))}; map what cannot be read to one"
        )
    if positive not in kinds and (
        len(kinds) == 2 or any(isinstance(kind, str) != isinstance(positive, str) for kind in kinds)
    ):
        raise UsageError(
            f"the positive label {positive!r} is none of {sorted(map(repr, kinds))}; name it: positive=..."
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
        raise UsageError(f"all labels are {labels[0]}: no correlation can be told")


def _check(predictions: Labels, labels: Labels) -> None:
    """Raises UsageError for lists of different or no length, a missing value, and a number that is not finite."""
    if len(predictions) != len(labels):
        raise UsageError(
            f"{len(predictions)} predictions for {len(labels)} labels; there must be one for each, in order"
        )
    if not len(labels):
        raise UsageError("there is no prediction to score")
    for name, values in (("prediction", predictions), ("label", labels)):
        for place, value in enumerate(values):
            if value is None or (isinstance(value, Real) and not math.isfinite(value)):
                raise UsageError(f"{name} {place} (from 0) is {value}, which cannot be scored")
