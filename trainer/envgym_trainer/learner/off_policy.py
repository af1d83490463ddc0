"""How far the samples are from the policy that learns from them, told at every step in two parts that must not be confused.

    mismatch    before the first update after sampling: the weights are those that sampled, so a token's logprob should be
                what the sampler said. What differs is an error of ours: a stale adapter, another temperature, rounding.
    staleness   after it: the policy has moved on, as several updates a batch mean it to. The loss's ratio corrects for this.

Both are |log-ratio| of the tokens that are trained, in nats. Left out: a correction of the loss, and samples without a lesson,
which no forward pass scores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from envgym.errors import EnvgymError
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.learner.controllers import updates_until_stopped

if TYPE_CHECKING:
    from envgym_trainer.batch import Sample
    from envgym_trainer.learner.learner import Learner

Metrics = dict[str, float]
Check = Callable[[Metrics], None]
"""Called with a step's numbers before its update; raises to forbid the update."""

DRIFT_MEAN = "drift/mean"
DRIFT_MAX = "drift/max"
RATIO = "drift/ratio"
RATIO_SQUARED = "drift/ratio_squared"


@dataclass(frozen=True, slots=True)
class Bound:
    """What rounding alone may do to a logprob, in nats."""

    mean: float
    """Over the tokens of an update. A systematic error shows here first."""
    max: float
    """Of any one token."""


# About ten times what was measured on a CPU with SmolLM2-135M and its trained CRM adapter: in float32 (47 steps of 600 to 2,700
# tokens) at most 1.0e-6 on average and 8.7e-5 for one token.
BOUNDS = {torch.float32: Bound(mean=1e-5, max=1e-3), torch.bfloat16: Bound(mean=5e-2, max=1.0)}


class SamplerMismatch(EnvgymError, RuntimeError):
    """Sampler and trainer give one token different probabilities; the message says by how much and what to look at."""


def with_drift(output: LossOutput, logprobs: Tensor, old_logprobs: Tensor) -> LossOutput:
    """The loss with its distance from sampling among what it logs, whatever the loss itself makes of the ratio.

    Args:
        logprobs, old_logprobs: (N,) of the same tokens, now and when they were sampled.
    Returns: the same loss; sums of |log-ratio|, ratio and ratio squared, and the largest |log-ratio|.
    """
    with torch.no_grad():
        log_ratio = logprobs - old_logprobs  # (N,)
        ratio = log_ratio.exp()
        drift = log_ratio.abs()
        sums = {DRIFT_MEAN: drift.sum(), RATIO: ratio.sum(), RATIO_SQUARED: ratio.square().sum()}
        maxima = {DRIFT_MAX: drift.max()} if drift.numel() else {}
    return dataclasses.replace(output, sums=output.sums | sums, maxima=output.maxima | maxima)


def effective_sample_size(mean_ratio: float, mean_squared_ratio: float) -> float:
    """(sum r)^2 / (N sum r^2), in (0, 1]: the share of the tokens that an importance-weighted mean is really made of.

    Source: Kong, A note on importance sampling using standardized weights, 1992; the ratios are token by token.
    """
    return mean_ratio**2 / mean_squared_ratio if mean_squared_ratio > 0 else math.nan


class MismatchWatch:
    """Compares each step's mismatch with what rounding explains.

    Args:
        dtype: of the model's frozen base.
        on_mismatch: `warn` says it once and goes on; `stop` raises SamplerMismatch before the update is made.
        say: takes the one line for the person at the terminal.
    """

    def __init__(
        self,
        *,
        dtype: torch.dtype,
        on_mismatch: Literal["warn", "stop"],
        say: Callable[[str], None],
    ):
        self.bound = BOUNDS.get(dtype, BOUNDS[torch.bfloat16])
        self.on_mismatch = on_mismatch
        self._say = say
        self.dtype = str(dtype).removeprefix("torch.")
        self._told = False

    def is_exceeded(self, metrics: Metrics) -> bool:
        """Whether the numbers of an update before which nothing was learned are beyond rounding; NaN is."""
        return not (metrics[DRIFT_MEAN] <= self.bound.mean and metrics[DRIFT_MAX] <= self.bound.max)

    def check(self, metrics: Metrics) -> None:
        """Raises SamplerMismatch, or says so the first time, where the mismatch is beyond rounding."""
        if not self.is_exceeded(metrics):
            return
        found = (
            f"sampler and trainer disagree: before any update the logprob of a token differs by {metrics[DRIFT_MEAN]:.2g} on "
            f"average and {metrics[DRIFT_MAX]:.2g} at most, where {self.dtype} explains {self.bound.mean:g} and {self.bound.max:g}"
        )
        if self.on_mismatch == "stop":
            raise SamplerMismatch(
                f"{found}. The gradient would be wrong, so this step was not learned; what was learned before it is saved. "
                "Look for an adapter that the sampler did not take over, another temperature or other weights in it, or a "
                "model that its attention gets wrong; train.dtype=float32 rules rounding out, train.on_mismatch=warn goes on."
            )
        if not self._told:
            self._say(
                f"WARNING: {found}. Training goes on (train.on_mismatch: warn); see alarm/mismatch."
            )
        self._told = True


def inner_updates(
    learner: Learner,
    shares: Sequence[Sequence[Sample]],
    *,
    epochs: int,
    watch: MismatchWatch,
    sampled_at: int | None = None,
) -> Metrics:
    """`epochs` passes over the shares of one step's samples, an update for each share.

    Args:
        sampled_at: the learner's updates when the sampler took its adapter over; by default as many as now.
    Returns: the means of the updates' numbers (`.../max` is the largest), with the drift of the updates told as
        `offpolicy/mismatch_{mean,max}` or `offpolicy/staleness_{mean,max}`, `offpolicy/ess` (the smallest) and
        `alarm/mismatch` (1 or 0). A step without a lesson has none of these.
    Raises: SamplerMismatch before anything is learned, where the watch is to stop.
    """
    sampled_at = learner.updates if sampled_at is None else sampled_at

    def step(share: Sequence[Sample]) -> Metrics:
        is_fresh = learner.updates == sampled_at
        metrics = learner.grpo_step(share, check=watch.check if is_fresh else None)
        return _named(metrics, watch if is_fresh else None)

    return combine(updates_until_stopped(step, [share for _ in range(epochs) for share in shares]))


def combine(rounds: Iterable[Metrics]) -> Metrics:
    """The updates of one step as one set of numbers."""
    rounds = list(rounds)
    out: Metrics = {}
    for name in dict.fromkeys(name for metrics in rounds for name in metrics):
        values = [metrics[name] for metrics in rounds if name in metrics]
        out[name] = _worst(name, values)
    return out


def _worst(name: str, values: Sequence[float]) -> float:
    """The mean, but for numbers that only their extreme tells."""
    if name == "offpolicy/ess":
        return min(values)
    if name.endswith(("/max", "_max")) or name.startswith("alarm/"):
        return max(values)
    return mean(values)


def _named(metrics: Metrics, watch: MismatchWatch | None) -> Metrics:
    """An update's drift by the name of its cause: mismatch where a watch is given, staleness where not."""
    out = {name: value for name, value in metrics.items() if not name.startswith("drift/")}
    if DRIFT_MEAN not in metrics:
        return out
    kind = "mismatch" if watch else "staleness"
    out |= {
        f"offpolicy/{kind}_mean": metrics[DRIFT_MEAN],
        f"offpolicy/{kind}_max": metrics[DRIFT_MAX],
    }
    out["offpolicy/ess"] = effective_sample_size(metrics[RATIO], metrics[RATIO_SQUARED])
    return out | ({"alarm/mismatch": float(watch.is_exceeded(metrics))} if watch else {})
