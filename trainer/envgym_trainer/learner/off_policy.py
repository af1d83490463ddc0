"""Distance between the policy that sampled the tokens and the policy that is trained on them.

*Mismatch* is measured before the first update after sampling. The weights are equal, so a
difference of logprobs is an error: a stale adapter, another temperature or rounding. *Staleness* is
measured after that update: the policy has changed, and the loss corrects for it by its ratio.
Both are mean and maximum of |log-ratio| over the trained tokens, in nats. Samples without an
advantage are not measured, because no forward pass computes their logprobs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, Protocol

import torch
from torch import Tensor

from envgym.errors import EnvgymError
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.batch import Sample
from envgym_trainer.learner.update_settings import UpdateSettings

Metrics = dict[str, float]
Check = Callable[[Metrics], None]
"""Callback that gets the metrics of a step before its update. It raises to prevent the update."""

DRIFT_MEAN = "drift/mean"
DRIFT_MAX = "drift/max"
RATIO = "drift/ratio"
RATIO_SQUARED = "drift/ratio_squared"
MISMATCH_ALARM = "off_policy/mismatch_alarm"


@dataclass(frozen=True, slots=True)
class Bound:
    """Largest difference of logprobs that rounding explains, in nats."""

    mean: float
    """Mean over the tokens of one update. A systematic error exceeds this bound first."""
    max: float
    """Maximum over single tokens."""


# About ten times the values measured on a CPU with SmolLM2-135M and its trained CRM adapter. In
# float32 (47 steps of 600 to 2,700 tokens) these were at most 1.0e-6 on average and 8.7e-5 for one
# token.
BOUNDS = {torch.float32: Bound(mean=1e-5, max=1e-3), torch.bfloat16: Bound(mean=5e-2, max=1.0)}


class SamplerMismatch(EnvgymError, RuntimeError):
    """Error raised if sampler and trainer compute different logprobs for the same token."""


def with_drift(output: LossOutput, logprobs: Tensor, old_logprobs: Tensor) -> LossOutput:
    """Add the off-policy sums to the loss output. The loss itself does not change.

    Args:
        output: Output of any loss.
        logprobs: Logprobs under the current policy, shape (N,).
        old_logprobs: Logprobs at sampling, shape (N,).

    Returns:
        The output with the sums of |log-ratio|, ratio and squared ratio, and the maximum
        |log-ratio|.
    """
    with torch.no_grad():
        log_ratio = logprobs - old_logprobs  # (N,)
        ratio = log_ratio.exp()
        drift = log_ratio.abs()
        sums = {DRIFT_MEAN: drift.sum(), RATIO: ratio.sum(), RATIO_SQUARED: ratio.square().sum()}
        maxima = {DRIFT_MAX: drift.max()} if drift.numel() else {}
    return dataclasses.replace(output, sums=output.sums | sums, maxima=output.maxima | maxima)


def effective_sample_size(mean_ratio: float, mean_squared_ratio: float) -> float:
    """Return the effective sample size as a fraction of N: (sum r)^2 / (N sum r^2), in (0, 1].

    The ratios are per token. Source: Kong, A note on importance sampling using standardized
    weights, 1992.
    """
    return mean_ratio**2 / mean_squared_ratio if mean_squared_ratio > 0 else math.nan


class MismatchMonitor:
    """Comparison of each step's mismatch with the bound for rounding.

    Args:
        dtype: Data type of the frozen base model.
        on_mismatch: `warn` prints one warning per run. `stop` raises SamplerMismatch before the
            update.
        notify: Receives one line of text for the terminal.
    """

    def __init__(
        self,
        *,
        dtype: torch.dtype,
        on_mismatch: Literal["warn", "stop"],
        notify: Callable[[str], None],
    ):
        self.bound = BOUNDS.get(dtype, BOUNDS[torch.bfloat16])
        self.on_mismatch = on_mismatch
        self._notify = notify
        self.dtype = str(dtype).removeprefix("torch.")
        self._told = False

    def is_exceeded(self, metrics: Metrics) -> bool:
        """Return whether the mismatch is larger than rounding explains. NaN counts as larger."""
        return not (metrics[DRIFT_MEAN] <= self.bound.mean and metrics[DRIFT_MAX] <= self.bound.max)

    def check(self, metrics: Metrics) -> None:
        """Warn once, or raise SamplerMismatch, if the mismatch is larger than rounding explains."""
        if not self.is_exceeded(metrics):
            return
        found = (
            "sampler and trainer disagree: before any update the logprob of a token differs by "
            f"{metrics[DRIFT_MEAN]:.2g} on average and {metrics[DRIFT_MAX]:.2g} at most. Rounding "
            f"in {self.dtype} explains {self.bound.mean:g} and {self.bound.max:g}"
        )
        if self.on_mismatch == "stop":
            raise SamplerMismatch(
                f"{found}. The gradient would be wrong, so this step was not trained; all earlier "
                "steps are saved. Possible causes: the sampler uses a stale adapter, another "
                "temperature or other weights, or computes this model's attention wrongly. Set "
                "train.model.dtype=float32 to rule out rounding, or "
                "train.checks.on_mismatch=warn to continue."
            )
        if not self._told:
            self._notify(
                f"WARNING: {found}. Training goes on (train.checks.on_mismatch: warn). See the "
                "metric off_policy/mismatch_alarm."
            )
        self._told = True


class Updates(Protocol):
    """Part of the learner that makes updates."""

    updates: int
    """Number of optimizer steps."""

    def update(
        self,
        samples: Sequence[Sample],
        settings: UpdateSettings,
        *,
        check: Check | None = None,
    ) -> Metrics: ...


def inner_updates(
    learner: Updates,
    shares: Sequence[Sequence[Sample]],
    settings: UpdateSettings,
    *,
    epochs: int,
    watch: MismatchMonitor,
    sampled_at: int | None = None,
) -> Metrics:
    """Train `epochs` times on the shares of one step's samples, with one update for each share.

    After an update that was skipped because of `max_kl`, the step makes no further update. As
    Spinning Up's `target_kl`, but checked before the update, as in Stable-Baselines3.

    Args:
        learner: Makes the updates.
        shares: Samples of each update.
        settings: Settings of all updates of this step.
        epochs: Number of passes over the shares.
        watch: Checks the mismatch before the first update.
        sampled_at: Number of updates when the sampler took over the adapter. Default: the current
            number.

    Returns:
        Means over the updates (maxima for `.../max`), with `off_policy/mismatch_{mean,max}` or
        `off_policy/staleness_{mean,max}`, `off_policy/ess` (the minimum) and
        `off_policy/mismatch_alarm` (1 or 0). These are missing if no sample has an advantage.

    Raises:
        SamplerMismatch: If the mismatch is too large and `on_mismatch` is `stop`. No update was
            made.
    """
    sampled_at = learner.updates if sampled_at is None else sampled_at
    rounds: list[Metrics] = []
    for share in [share for _ in range(epochs) for share in shares]:
        is_fresh = learner.updates == sampled_at
        metrics = learner.update(share, settings, check=watch.check if is_fresh else None)
        rounds.append(_named(metrics, watch if is_fresh else None))
        if metrics.get("controller/update_skipped"):
            break
    return combine(rounds)


def combine(rounds: Iterable[Metrics]) -> Metrics:
    """Combine the metrics of several updates into the metrics of one step."""
    rounds = list(rounds)
    out: Metrics = {}
    for name in dict.fromkeys(name for metrics in rounds for name in metrics):
        values = [metrics[name] for metrics in rounds if name in metrics]
        out[name] = _worst(name, values)
    return out


def _worst(name: str, values: Sequence[float]) -> float:
    """Return the mean, or the worst value of a metric that warns."""
    if name == "off_policy/ess":
        return min(values)
    if name.endswith(("/max", "_max")) or name == MISMATCH_ALARM:
        return max(values)
    return mean(values)


def _named(metrics: Metrics, watch: MismatchMonitor | None) -> Metrics:
    """Rename `drift/...` to mismatch if a watch is given, otherwise to staleness."""
    out = {name: value for name, value in metrics.items() if not name.startswith("drift/")}
    if DRIFT_MEAN not in metrics:
        return out
    kind = "mismatch" if watch else "staleness"
    out |= {
        f"off_policy/{kind}_mean": metrics[DRIFT_MEAN],
        f"off_policy/{kind}_max": metrics[DRIFT_MAX],
    }
    out["off_policy/ess"] = effective_sample_size(metrics[RATIO], metrics[RATIO_SQUARED])
    return out | ({MISMATCH_ALARM: float(watch.is_exceeded(metrics))} if watch else {})
