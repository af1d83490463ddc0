"""How sure a success rate is: intervals for one proportion and for the difference of two. Pure functions of counts.

Left out: paired tests. Two policies judged on the same tasks are treated as independent samples, which is on the safe side
when their successes go together.
"""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]
"""Low and high end, both inside."""


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
    successes: int, trials: int, other_successes: int, other_trials: int, *, confidence: float = 0.95
) -> Interval:
    """Where the difference `successes/trials - other_successes/other_trials` of two independent rates lies.

    Source: Newcombe 1998, Statistics in Medicine 17:873-890, method 10 (hybrid score, no continuity correction).
    """
    low, high = wilson_interval(successes, trials, confidence=confidence)
    other_low, other_high = wilson_interval(other_successes, other_trials, confidence=confidence)
    rate, other = successes / trials, other_successes / other_trials
    difference = rate - other
    return (
        difference - math.hypot(rate - low, other_high - other),
        difference + math.hypot(high - rate, other - other_low),
    )


def intervals_overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a point. No overlap is a stricter demand than a difference that excludes 0."""
    return one[0] <= other[1] and other[0] <= one[1]


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
