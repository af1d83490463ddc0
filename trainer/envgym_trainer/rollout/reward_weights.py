"""Adaptive weights of reward parts: bounded factors that are logged and stored in checkpoints.

`spread` equalizes the contribution of each part to the reward variance within groups. `feedback`
fits the factors to people's ratings. See `group_scorer.py` for their use.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym_trainer.config.reward_weights import RewardWeightsConfig

Groups = Sequence[Sequence[Episode]]
ZERO = 1e-9


class RewardWeights:
    """Weight factors of the reward parts. A factor of 1 keeps the environment's weight.

    Args:
        config: Settings of the `reward_weights` block.
        names: Parts whose weight may change.
        grounded: Parts of `names` that do not depend on a judge. Only these are fitted to feedback.
    """

    def __init__(
        self, config: RewardWeightsConfig, names: Sequence[str], *, grounded: Sequence[str]
    ):
        self.config = config
        self.names = list(names)
        self.grounded = list(grounded)
        self.logs = dict.fromkeys(names, 0.0)
        """Natural logarithm of each part's factor, by name."""
        self.spread: dict[str, float] = {}
        self.alive: dict[str, float] = {}

    def factor(self, name: str) -> float:
        return math.exp(self.logs.get(name, 0.0))

    def observe(self, groups: Groups) -> None:
        """Update the factors from a step's groups, for the next step. Used by `spread`."""
        if self.config.mode != "spread":
            return
        for name in self.names:
            spreads = [
                spread
                for group in groups
                if (spread := _spread(group, name, self.factor(name))) is not None
            ]
            if spreads:
                self._update_average(self.spread, name, statistics.fmean(spreads))
                self._update_average(
                    self.alive, name, statistics.fmean(float(spread > ZERO) for spread in spreads)
                )
        varying = [
            name
            for name in self.names
            if self.spread.get(name, 0.0) > ZERO
            and self.alive[name] >= self.config.min_varying_fraction
        ]
        middle = (
            statistics.fmean(math.log(self.spread[name]) for name in varying) if varying else 0.0
        )
        for name in self.names:
            wanted = self._bounded(middle - math.log(self.spread[name])) if name in varying else 0.0
            self.logs[name] += self.config.rate * (wanted - self.logs[name])

    def apply_feedback(self, likes: Sequence[tuple[Mapping[str, float], bool]]) -> None:
        """Fit the factors of grounded parts to ratings. Used by `feedback`.

        Args:
            likes: Part values of each rated episode, and whether it was liked. If empty, all
                factors are 1.
        """
        slopes = fit_feedback_weights(
            [values for values, _ in likes],
            [liked for _, liked in likes],
            self.grounded,
            prior=self.config.prior_strength,
        )
        self.logs = {name: self._bounded(slopes.get(name, 0.0)) for name in self.names}

    def metrics(self) -> dict[str, float]:
        return (
            {f"reward_weights/{name}": self.factor(name) for name in self.names}
            if self.config.mode != "fixed"
            else {}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"logs": dict(self.logs), "spread": dict(self.spread), "alive": dict(self.alive)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.logs |= self._of_this_run(state["logs"])
            self.spread = self._of_this_run(state["spread"])
            self.alive = self._of_this_run(state["alive"])

    def _of_this_run(self, values: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if name in self.names}

    def _update_average(self, averages: dict[str, float], name: str, value: float) -> None:
        averages[name] = (
            value
            if name not in averages
            else averages[name] + self.config.rate * (value - averages[name])
        )

    def _bounded(self, log: float) -> float:
        return min(max(log, -math.log(self.config.max_factor)), math.log(self.config.max_factor))


def _spread(group: Sequence[Episode], name: str, factor: float) -> float | None:
    """Return the deviation of a part's contribution in a group, with its factor removed.

    None if fewer than two members have the part.
    """
    terms = [episode.reward_terms[name] for episode in group if name in episode.reward_terms]
    values = [term.contribution / factor for term in terms if term.value is not None]
    return statistics.pstdev(values) if len(values) > 1 else None


def fit_feedback_weights(
    values: Sequence[Mapping[str, float]],
    liked: Sequence[bool],
    names: Sequence[str],
    *,
    prior: float,
) -> dict[str, float]:
    """Fit a ridge logistic regression of ratings on part values. The intercept has no penalty.

    Args:
        values: Part values of each rated episode. A missing value counts as the part's mean.
        liked: Whether each episode was liked.
        names: Parts in the regression.
        prior: Strength of the ridge penalty, in rated episodes.

    Returns:
        Change of the log-odds for one standard deviation of each part. 0 for a part that does not
        vary, and an empty result without ratings.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd edition, eq.
    4.31 and 3.41.
    """
    if not liked:
        return {}
    table = np.array([[each.get(name, math.nan) for name in names] for each in values])  # (N, K)
    seen = ~np.isnan(table)
    mean = np.where(
        seen.any(0), np.nansum(np.where(seen, table, 0.0), 0) / np.maximum(seen.sum(0), 1), 0.0
    )
    centered = np.where(seen, table - mean, 0.0)
    deviation = np.sqrt((centered**2).mean(0))
    design = np.column_stack(
        [np.ones(len(liked)), centered / np.where(deviation > ZERO, deviation, 1.0)]
    )
    ridge = np.diag([1e-6, *[prior] * len(names)])
    slopes = np.zeros(len(names) + 1)
    # Newton's method on a strictly convex function.
    for _ in range(50):
        likely = 1 / (1 + np.exp(-np.clip(design @ slopes, -30, 30)))
        gradient = design.T @ (likely - np.array(liked, dtype=float)) + ridge @ slopes
        step = np.linalg.solve(
            design.T @ (design * (likely * (1 - likely) + 1e-9)[:, None]) + ridge, gradient
        )
        slopes = slopes - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return {
        name: float(slope) if deviation[k] > ZERO else 0.0
        for k, (name, slope) in enumerate(zip(names, slopes[1:], strict=True))
    }


def read_feedback(file: Path) -> dict[str, bool]:
    """Read a feedback file. The last line about an episode counts.

    Returns:
        Whether each episode was liked, by episode id such as `12:3`.

    Raises:
        UsageError: If a line is invalid. The message has file and line.
    """
    if not file.exists():
        return {}
    likes = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            plain = json.loads(line)
            step, _, place = plain["episode"].partition(":")
            if not (step.isdigit() and place.isdigit() and isinstance(plain["like"], bool)):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f'{file}:{number}: must look like {{"episode": "12:3", "like": true}} (the third '
                f"episode of step 12), got {line!r}"
            ) from None
        likes[plain["episode"]] = plain["like"]
    return likes
