"""Confidence intervals for a success rate, a difference of two rates, and a mean of runs.

Not supported: paired tests. Two policies that played the same tasks are treated as independent
samples. The interval of their difference is then too wide, because hard tasks are hard for both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

MOST_DECIMALS = 6
Interval = tuple[float, float]
"""Low and high end, both included."""
_T_TABLE = """
    12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228
    2.201 2.179 2.160 2.145 2.131 2.120 2.110 2.101 2.093 2.086
    2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 2.045 2.042
"""
T_975 = tuple(float(number) for number in _T_TABLE.split())
"""Quantiles of Student's t distribution, 97.5 %, for 1, 2, ... 30 degrees of freedom."""


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a success rate.

    Unlike the normal approximation it is valid for 0 of n and n of n.

    Args:
        successes: Number of successes, 0..trials.
        trials: Number of trials, at least 1.
        confidence: Coverage probability of the interval.

    Raises:
        ValueError: If the counts are impossible.

    References:
        Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857-872, method 3.
    """
    _check(successes, trials)
    z = _z(confidence)
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends are exact; the formula would give about 1e-18 because of rounding.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def newcombe_difference(
    successes: int,
    trials: int,
    other_successes: int,
    other_trials: int,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Return the interval of the difference of two independent success rates.

    The difference is `successes/trials - other_successes/other_trials`.

    References:
        Newcombe 1998, Statistics in Medicine 17:873-890, method 10 (hybrid score, no continuity
        correction).
    """
    low, high = wilson_interval(successes, trials, confidence=confidence)
    other_low, other_high = wilson_interval(other_successes, other_trials, confidence=confidence)
    rate = successes / trials
    other = other_successes / other_trials
    difference = rate - other
    return (
        difference - math.hypot(rate - low, other_high - other),
        difference + math.hypot(high - rate, other - other_low),
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of a few independent runs with Student's 95 % interval.

    Args:
        values: One value per run, for example per seed; at most 31.

    Returns:
        Mean, low end and high end. The ends are NaN if there is only one run.

    Raises:
        ValueError: If there is no value, or more than 31.

    References:
        Student 1908. Quantiles: any table of t, such as NIST/SEMATECH e-Handbook 1.3.6.7.2.
    """
    if not 1 <= len(values) <= len(T_975) + 1:
        raise ValueError(f"needs 1 to {len(T_975) + 1} values, got {len(values)}")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    spread = T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - spread, mean + spread


def pooled_interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Return the mean success rate of a few runs with a 95 % interval that is never empty.

    The interval contains two intervals: Student's of the runs' rates, which covers the chance of
    the seeds, and Wilson's of all episodes, which covers the chance of the tasks. Student's alone
    has no width if the runs agree. If the runs share their tasks, the chance of the tasks is larger
    than Wilson's interval of all episodes, so the interval is a lower bound then.

    Args:
        counts: (successes, tasks) of each run; the tasks are equally many.

    Returns:
        (mean, low, high). Both ends are NaN if there is only one run.

    Raises:
        ValueError: As `mean_interval` and `wilson_interval` do.
    """
    mean, low, high = mean_interval([successes / n for successes, n in counts])
    if len(counts) == 1:
        return mean, low, high
    least, most = wilson_interval(sum(s for s, _ in counts), sum(n for _, n in counts))
    return mean, max(0.0, min(low, least)), min(1.0, max(high, most))


def pooled_difference(
    counts: Sequence[tuple[int, int]], other_counts: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    """Return the mean difference of success rates, run by run, with a 95 % interval.

    The interval contains Student's of the differences and Newcombe's of all episodes; see
    `pooled_interval` for the reason.

    Args:
        counts: (successes, tasks) of each run.
        other_counts: (successes, tasks) of the runs that are subtracted, with the same seeds.

    Returns:
        (mean, low, high). Both ends are NaN if there is only one run.
    """
    pairs = list(zip(counts, other_counts, strict=True))
    mean, low, high = mean_interval([one[0] / one[1] - two[0] / two[1] for one, two in pairs])
    if len(pairs) == 1:
        return mean, low, high
    least, most = newcombe_difference(
        sum(s for s, _ in counts),
        sum(n for _, n in counts),
        sum(s for s, _ in other_counts),
        sum(n for _, n in other_counts),
    )
    return mean, max(-1.0, min(low, least)), min(1.0, max(high, most))


def percent_text(share: float, *, sign: bool = False) -> str:
    """Return a share, or a difference of shares, in per cent without the sign `%`.

    It is rounded to a whole number, unless that would show all or none where it is not: then as
    many decimals follow as are needed.

    >>> percent_text(0.62), percent_text(199 / 200), percent_text(1 / 5000), percent_text(1.0)
    ('62', '99.5', '0.02', '100')
    """
    return _rounded(100 * share, 0, (-100.0, 0.0, 100.0), "+" if sign and share else "")


def number_text(value: float) -> str:
    """Return a number with two decimals, or with more if they would show a false whole number."""
    return _rounded(value, 2, (float(math.floor(value)), float(math.ceil(value))), "")


def _rounded(
    value: float, decimals: int, boundaries: Sequence[float], sign: Literal["+", ""]
) -> str:
    """Return a number rounded so that it equals a boundary only if it is exactly the boundary."""
    while True:
        text = f"{value:{sign}.{decimals}f}"
        is_false = float(text) in boundaries and not math.isclose(
            value, float(text), rel_tol=0, abs_tol=1e-9
        )
        if not is_false:
            return "0" if float(text) == 0 and not decimals else text
        if decimals >= MOST_DECIMALS:
            return text
        decimals += 1


def intervals_overlap(one: Interval, other: Interval) -> bool:
    """Return whether two intervals share a point.

    If they do not, the interval of the difference excludes 0. The reverse is not true.
    """
    return one[0] <= other[1] and other[0] <= one[1]


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"needs 0 <= successes <= trials and trials >= 1, got {successes} of {trials}"
        )
