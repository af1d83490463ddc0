"""Common functions of the policy losses: clipped surrogate, KL penalty, denominator and metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.kl import ESTIMATORS, k3_kl
from envgym_trainer.algorithms.losses import LossOutput


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A).

    Args:
        ratio: Importance ratio, shape (N,), with gradient.
        advantages: Shape (N,).

    Returns:
        Loss of each token, shape (N,), and two masks, shape (N,), bool: tokens without a gradient
        because of the lower and of the upper clip.

    References:
        PPO, arXiv 1707.06347, eq. 7. Two clips: DAPO, arXiv 2503.14476, eq. 8.
    """
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return -torch.minimum(ratio * advantages, clipped * advantages), low, high


def policy_output(
    policy: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    ratio: Tensor,
    low: Tensor,
    high: Tensor,
    denominator: float,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl: str = "k3",
) -> LossOutput:
    """Return sum(weight * (policy + kl_coef * kl)) / denominator, and the common metrics.

    Args:
        policy: Loss of each token, shape (N,), with gradient.
        logprobs: Current logprobs, shape (N,).
        old_logprobs: Logprobs at sampling, shape (N,).
        ratio: Importance ratio that the loss used, shape (N,).
        low: True if the lower clip is active, shape (N,), bool.
        high: True if the upper clip is active, shape (N,), bool.
        denominator: Denominator of the whole optimizer step.
        weights: Factor of each token, shape (N,); 1 by default.
        ref_logprobs: Logprobs under the reference policy, shape (N,). Required if kl_coef > 0.
        kl_coef: Weight of the KL penalty.
        kl: Estimator of KL(policy || reference); see `kl.py`.

    Returns:
        LossOutput. Metrics use TRL's names if TRL has one. `kl/old_current` is the k3 estimate of
        KL(old || current), `kl/current_base` the chosen estimate of KL(current || reference).

    Raises:
        ValueError: If kl_coef > 0 and ref_logprobs is `None`.
    """
    if kl_coef > 0 and ref_logprobs is None:
        raise ValueError(
            f"kl_coef is {kl_coef}, so ref_logprobs are needed. Compute them with the adapter off, "
            "or set kl_coef to 0."
        )
    penalty = None if ref_logprobs is None else ESTIMATORS[kl](logprobs, ref_logprobs)
    per_token = policy + kl_coef * penalty if kl_coef > 0 and penalty is not None else policy
    if weights is not None:
        per_token = per_token * weights
    with torch.no_grad():
        drift = (logprobs - old_logprobs).abs()
        sums = {
            "policy_loss": policy if weights is None else policy * weights,
            "kl/old_current": k3_kl(old_logprobs, logprobs),
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low | high,
            "sampling/sampling_logp_difference/mean": drift,
            "sampling/importance_sampling_ratio/mean": ratio,
        } | ({} if penalty is None else {"kl/current_base": penalty})
        maxima = {
            "sampling/sampling_logp_difference/max": drift,
            "sampling/importance_sampling_ratio/max": ratio,
        }
    return LossOutput(
        per_token.sum() / denominator,
        {name: value.detach().sum() for name, value in sums.items()},
        {name: value.detach().max() for name, value in maxima.items() if value.numel()},
    )
