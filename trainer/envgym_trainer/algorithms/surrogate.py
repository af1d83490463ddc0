"""What the policy losses have in common: the clipped surrogate, the KL penalty, the denominator, and the numbers worth logging."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.kl import ESTIMATORS, k3_kl
from envgym_trainer.algorithms.losses import LossOutput


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A).

    Args: ratio (N,) with gradient, advantages (N,).
    Returns: (N,) the loss of each token; (N,) bool each: where the lower and where the upper clip stopped the gradient.
    Source: PPO, arXiv 1707.06347, eq. 7; two clips: DAPO, arXiv 2503.14476, eq. 8.
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
    """sum(weight * (policy + kl_coef * kl)) / denominator, with the metrics of every policy loss.

    Args:
        policy: (N,) the loss of each token, with gradient.
        logprobs, old_logprobs: (N,) now and when the tokens were sampled.
        ratio: (N,) the importance ratio that the loss used; low, high: (N,) bool, where it was clipped.
        weights: (N,) factor of each token; None is 1.
        ref_logprobs: (N,) under the reference policy; needed when kl_coef > 0.
        kl: the estimator of KL(policy || reference), see `kl.py`.
    Returns: LossOutput. Its sums and maxima carry TRL's names where TRL has one; `approx_kl` is the k3 estimate of
        KL(old || current), `kl` the chosen estimate of KL(current || reference).
    Raises: ValueError for kl_coef > 0 without ref_logprobs.
    """
    if kl_coef > 0 and ref_logprobs is None:
        raise ValueError(
            f"kl_coef is {kl_coef}, so ref_logprobs are needed. Score the tokens with the adapter off, or set kl_coef to 0."
        )
    penalty = None if ref_logprobs is None else ESTIMATORS[kl](logprobs, ref_logprobs)
    per_token = policy + kl_coef * penalty if kl_coef > 0 and penalty is not None else policy
    if weights is not None:
        per_token = per_token * weights
    with torch.no_grad():
        drift = (logprobs - old_logprobs).abs()
        sums = {
            "policy_loss": policy if weights is None else policy * weights,
            "approx_kl": k3_kl(old_logprobs, logprobs),
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low | high,
            "sampling/sampling_logp_difference/mean": drift,
            "sampling/importance_sampling_ratio/mean": ratio,
        } | ({} if penalty is None else {"kl": penalty})
        maxima = {
            "sampling/sampling_logp_difference/max": drift,
            "sampling/importance_sampling_ratio/max": ratio,
        }
    return LossOutput(
        per_token.sum() / denominator,
        {name: value.detach().sum() for name, value in sums.items()},
        {name: value.detach().max() for name, value in maxima.items() if value.numel()},
    )
