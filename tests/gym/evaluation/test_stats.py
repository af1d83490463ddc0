"""Confidence intervals, compared with the tables in Newcombe's two papers of 1998."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.evaluation.stats import (
    intervals_overlap,
    mean_interval,
    newcombe_difference,
    number_text,
    percent_text,
    pooled_difference,
    pooled_interval,
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


@pytest.mark.parametrize(
    ("successes", "n", "text"),
    [
        (199, 200, "99.5"),
        (1, 200, "0.5"),
        (1999, 2000, "99.95"),
        (1, 3000, "0.03"),
        (99_999, 100_000, "99.999"),
        (200, 200, "100"),
        (0, 200, "0"),
        (62, 100, "62"),
        (989, 1000, "99"),
    ],
)
def test_only_all_is_100_per_cent_and_only_none_is_0(successes, n, text):
    assert percent_text(successes / n) == text


@given(st.integers(1, 5000), st.data())
def test_a_share_is_never_rounded_to_all_or_none(n, data):
    successes = data.draw(st.integers(0, n))
    shown = float(percent_text(successes / n))
    assert (shown == 100) == (successes == n)
    assert (shown == 0) == (successes == 0)
    assert shown == pytest.approx(100 * successes / n, abs=0.5)


@pytest.mark.parametrize(
    ("value", "text"), [(0.995, "0.99"), (0.9996, "0.9996"), (1.0, "1.00"), (-0.001, "-0.001")]
)
def test_a_mean_is_never_rounded_to_a_whole_number(value, text):
    assert number_text(value) == text


def test_a_difference_is_never_rounded_to_none():
    assert percent_text(0.004, sign=True) == "+0.4"
    assert percent_text(-0.3, sign=True) == "-30"
    assert percent_text(0.0, sign=True) == "0"


def test_runs_that_agree_leave_the_interval_of_their_tasks():
    # none of 72 and 36 of 72: Wilson's intervals
    assert pooled_interval([(0, 24)] * 3) == pytest.approx((0.0, 0.0, 0.0507), abs=1e-4)
    assert pooled_interval([(12, 24)] * 3) == pytest.approx((0.5, 0.3875, 0.6125), abs=1e-4)
    assert pooled_interval([(24, 24)] * 2) == pytest.approx((1.0, 0.9259, 1.0), abs=1e-4)


def test_runs_that_differ_keep_students_interval_where_it_is_wider():
    mean, low, high = mean_interval([0.25, 0.5, 0.75])
    assert pooled_interval([(6, 24), (12, 24), (18, 24)]) == (mean, max(0.0, low), min(1.0, high))


def test_equal_gains_leave_the_interval_of_the_tasks():
    mean, low, high = pooled_difference([(18, 24)] * 3, [(12, 24)] * 3)
    assert mean == pytest.approx(0.25)
    assert (low, high) == newcombe_difference(54, 72, 36, 72)


def test_one_run_has_no_interval_over_runs():
    assert all(math.isnan(end) for end in pooled_interval([(3, 8)])[1:])
    assert all(math.isnan(end) for end in pooled_difference([(3, 8)], [(1, 8)])[1:])


@given(st.lists(st.integers(0, 30), min_size=2, max_size=8))
def test_an_interval_over_runs_has_width_and_holds_the_mean(solved):
    counts = [(each, 30) for each in solved]
    mean, low, high = pooled_interval(counts)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert high - low > 0.01
    mean, low, high = pooled_difference(counts, counts)
    assert mean == 0
    assert low < 0 < high
