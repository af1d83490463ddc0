"""How sure a success rate is: intervals for one proportion, for the difference of two, and for the mean of several runs.

Left out: paired tests. Two policies judged on the same tasks are treated as independent samples, which is on the safe side
when their successes go together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist

Interval = tuple[float, float]
"""Low and high end, both inside."""
T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)
"""Student's t, 97.5 %, for 1, 2, ... 30 degrees of freedom."""


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Where a success rate lies, given what was seen; honest at 0 of n and n of n, where mean +- deviation is not.

    Args:
        successes: 0..trials.
        trials: at least 1.
        confidence: share of such intervals that hold the true rate.
    Raises: ValueError for counts that cannot be.
    Source: Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857-872, method 3.
    """
    _check(successes, trials)
    z = _z(confidence)
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Exact at the ends, where rounding would leave 1e-18.
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
    """Where the difference `successes/trials - other_successes/other_trials` of two independent rates lies.

    Source: Newcombe 1998, Statistics in Medicine 17:873-890, method 10 (hybrid score, no continuity correction).
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
    """Mean of a few independent runs, and the low and high end of Student's 95 % interval for it.

    Args:
        values: one a run, such as one a seed; at most 31.
    Returns: (mean, low, high); both ends NaN from a single run, which says nothing about the next one.
    Raises: ValueError for no run, and for more than the table holds.
    Source: Student 1908; the quantiles are those of any table of t, such as NIST/SEMATECH e-Handbook 1.3.6.7.2.
    """
    if not 1 <= len(values) <= len(T_975) + 1:
        raise ValueError(f"needs 1 to {len(T_975) + 1} values, got {len(values)}")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    spread = T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - spread, mean + spread


def intervals_overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a point. No overlap is a stricter demand than a difference that excludes 0."""
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
