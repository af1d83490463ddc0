"""GLUE metrics: values worked out by hand, and SciPy and scikit-learn if installed."""

import math
import random
from typing import Any

import numpy as np
import pytest

from envgym.errors import UsageError
from envgym.rewards.scoring.glue import (
    METRICS,
    accuracy,
    f1,
    matthews,
    mnli_score,
    overall,
    pearson,
    ranks,
    spearman,
    task_score,
)

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
GUESSES = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]


def test_accuracy_is_the_share_of_equal_pairs():
    assert accuracy(GUESSES, LABELS) == 0.7
    assert accuracy(["yes", "no"], ["yes", "yes"]) == 0.5


def test_f1_of_the_positive_label():
    assert f1(GUESSES, LABELS) == pytest.approx(2 / 3)  # 2*3 / (2*3 + 1 + 2)
    assert f1(GUESSES, LABELS, positive=0) == pytest.approx(8 / 11)  # 2*4 / (2*4 + 2 + 1)
    assert f1([0, 0], [0, 0]) == 0.0
    assert f1([0, 0], [1, 1]) == 0.0


def test_matthews_correlation():
    assert matthews(GUESSES, LABELS) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    assert matthews(LABELS, LABELS) == 1.0
    assert matthews([1 - label for label in LABELS], LABELS) == -1.0
    assert matthews([1] * 10, LABELS) == 0.0


def test_pearson_and_spearman():
    assert pearson([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]) == pytest.approx(5 / math.sqrt(2 * 38 / 3))
    assert spearman([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]) == pytest.approx(1.0)
    assert spearman([3.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == pytest.approx(-0.5)


def test_equal_values_share_their_mean_rank():
    assert ranks([10, 20, 20, 5]) == [2.0, 3.5, 3.5, 1.0]
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(
        math.sqrt(3) / 2
    )  # ranks 1.5 1.5 3 against 1 2 3


def test_predictions_that_are_all_alike_correlate_with_nothing():
    assert pearson([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0.0
    assert spearman([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0.0


def test_a_task_has_its_metrics_and_their_mean():
    assert task_score("cola", GUESSES, LABELS)["score"] == pytest.approx(matthews(GUESSES, LABELS))
    mrpc = task_score("mrpc", GUESSES, LABELS)
    assert mrpc == {
        "accuracy": 0.7,
        "f1": pytest.approx(2 / 3),
        "score": pytest.approx((0.7 + 2 / 3) / 2),
    }
    assert set(task_score("stsb", [1.0, 2.0], [0.0, 5.0])) == {"pearson", "spearman", "score"}
    words = task_score(
        "qqp", ["duplicate", "not_duplicate"], ["duplicate", "duplicate"], positive="duplicate"
    )
    assert words == {"accuracy": 0.5, "f1": pytest.approx(2 / 3), "score": pytest.approx(7 / 12)}
    assert task_score("rte", ["entailment"], ["entailment"]) == {"accuracy": 1.0, "score": 1.0}


def test_mnli_is_the_mean_of_matched_and_mismatched():
    found = mnli_score(
        matched=(["neutral"], ["neutral"]),
        mismatched=(["neutral", "neutral"], ["neutral", "entailment"]),
    )
    assert found == {"matched": 1.0, "mismatched": 0.5, "score": 0.75}
    with pytest.raises(UsageError, match="mnli_score"):
        task_score("mnli", ["neutral"], ["neutral"])


def test_the_overall_score_is_the_mean_of_all_nine_tasks():
    scores = {task: 0.5 for task in METRICS}
    assert overall(scores | {"cola": 0.05, "sst2": 0.95}) == pytest.approx(0.5)
    assert overall(scores | {"cola": 1.0}) == pytest.approx(5 / 9)  # (8 * 0.5 + 1) / 9
    with pytest.raises(UsageError, match="missing: cola"):
        overall({task: 0.5 for task in METRICS if task != "cola"})
    with pytest.raises(UsageError, match="did you mean 'stsb'"):
        overall(scores | {"sts-b": 0.5})
    with pytest.raises(UsageError, match="score of rte is nan"):
        overall(scores | {"rte": math.nan})


@pytest.mark.parametrize("metric", [accuracy, f1, matthews, pearson, spearman])
def test_lists_that_cannot_be_compared_are_errors(metric):
    with pytest.raises(UsageError, match="2 predictions for 3 labels"):
        metric([1, 0], [1, 0, 1])
    with pytest.raises(UsageError, match="no prediction"):
        metric([], [])
    with pytest.raises(UsageError, match="prediction 1 \\(from 0\\) is nan"):
        metric([1, math.nan], [1, 0])
    with pytest.raises(UsageError, match="label 0 \\(from 0\\) is None"):
        metric([1, 0], [None, 0])


def test_what_has_no_correlation_or_no_positive_label_is_an_error():
    with pytest.raises(UsageError, match="all labels are 3"):
        pearson([1.0, 2.0], [3.0, 3.0])
    with pytest.raises(UsageError, match="at least two pairs"):
        spearman([1.0], [2.0])
    with pytest.raises(UsageError, match="needs numbers, got 'high'"):
        pearson(["high", 2.0], [1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="positive label 1 is not among"):
        f1(["yes", "no"], ["yes", "yes"])
    with pytest.raises(UsageError, match="at most two different labels"):
        matthews([0, 1, 2], [0, 1, 1])
    with pytest.raises(UsageError, match="did you mean 'cola'"):
        task_score("colla", [0], [0])


def test_numpy_arrays_are_lists_too():
    guesses: Any = np.array([1, 2, 4], dtype=np.float32)
    labels: Any = np.array([1, 2, 5])
    assert accuracy(guesses, labels) == pytest.approx(2 / 3)
    assert spearman(guesses, labels) == pytest.approx(1.0)
    guesses[1] = math.nan
    with pytest.raises(UsageError, match=r"prediction 1 .* is nan"):
        pearson(guesses, labels)


@pytest.mark.parametrize("seed", range(20))
def test_scikit_learn_and_scipy_agree(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(seed)
    guesses, labels = ([rng.randint(0, 1) for _ in range(30)] for _ in range(2))
    assert f1(guesses, labels) == pytest.approx(metrics.f1_score(labels, guesses))
    assert matthews(guesses, labels) == pytest.approx(metrics.matthews_corrcoef(labels, guesses))
    scores, truths = ([rng.randint(0, 10) / 2 for _ in range(30)] for _ in range(2))  # many ties
    assert pearson(scores, truths) == pytest.approx(stats.pearsonr(scores, truths).statistic)
    assert spearman(scores, truths) == pytest.approx(stats.spearmanr(scores, truths).statistic)
