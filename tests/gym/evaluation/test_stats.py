"""Confidence intervals, compared with the tables in Newcombe's two papers of 1998."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.evaluation.stats import (
    intervals_overlap,
    mean_interval,
    newcombe_difference,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_printed_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_by_hand_for_one_of_two():
    # z = 1.95996, z2 = 3.84146: centre (0.5 + 3.84146/4) / (1 + 3.84146/2) = 0.5;
    # spread 1.95996 * sqrt(0.125 + 3.84146/16) / 2.92073 = 0.40547
    assert wilson_interval(1, 2) == pytest.approx((0.09453, 0.90547), abs=1e-5)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_gives_the_printed_values(counts, low, high):
    assert newcombe_difference(*counts) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(
    st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))
)
def test_the_interval_holds_the_rate_and_stays_between_0_and_1(counts):
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_more_trials_and_less_confidence_are_narrower():
    def width(interval):
        return interval[1] - interval[0]

    assert width(wilson_interval(50, 100)) < width(wilson_interval(5, 10))
    assert width(wilson_interval(5, 10, confidence=0.8)) < width(wilson_interval(5, 10))


def test_intervals_overlap_when_they_share_a_point():
    assert intervals_overlap((0.1, 0.3), (0.3, 0.5))
    assert intervals_overlap((0.3, 0.5), (0.1, 0.3))
    assert intervals_overlap((0.0, 1.0), (0.4, 0.5))
    assert not intervals_overlap((0.1, 0.3), (0.31, 0.5))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_counts_that_cannot_be_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        wilson_interval(successes, trials)


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"such as 0\.95, got 95"):
        wilson_interval(1, 2, confidence=95)


def test_the_interval_of_a_mean_is_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])  # deviation 1, t(2) = 4.303
    assert mean == 2.0
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))


def test_one_run_says_nothing_about_the_next():
    mean, low, high = mean_interval([0.4])
    assert mean == 0.4
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("values", [[], [0.5] * 32])
def test_a_mean_of_too_few_or_too_many_runs_is_refused(values):
    with pytest.raises(ValueError, match="needs 1 to 31 values"):
        mean_interval(values)
