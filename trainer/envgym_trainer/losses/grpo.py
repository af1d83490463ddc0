"""The clipped policy-gradient loss of GRPO, token by token.

Left out: advantages (`advantages.py`), logprobs (`logprobs.py`), and sequence-level ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.losses import LossOutput


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    denominator: float,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
) -> LossOutput:
    """-sum(weight * (min(ratio * A, clip(ratio) * A) - kl_coef * kl)) / denominator.

    Args:
        logprobs: (N,) of the sampled tokens under the current policy, with gradient.
        old_logprobs: (N,) of the same tokens when they were sampled.
        advantages: (N,) the advantage of each token's episode.
        denominator: what the whole optimiser step divides by, usually its number of sampled tokens (token-level
            aggregation, DAPO); never this micro-batch's own count.
        clip_low, clip_high: the ratio is held within [1 - clip_low, 1 + clip_high].
        weights: (N,) factor of each token; None is 1.
        ref_logprobs: (N,) under the reference policy; needed when kl_coef > 0.
        kl_coef: weight of the k3 estimate of KL(policy || reference).
    Returns: LossOutput. Its sums and maxima carry TRL's names where TRL has one; `approx_kl` is the k3 estimate of
        KL(old || current), `kl` that of KL(current || reference).
    Source: DeepSeekMath, arXiv 2402.03300, eq. 3; DAPO, arXiv 2503.14476, eq. 8 (two clips, token-level sum).
    """
    if kl_coef > 0 and ref_logprobs is None:
        raise ValueError(
            f"kl_coef is {kl_coef}, so ref_logprobs are needed. Score the tokens with the adapter off, or set kl_coef to 0."
        )
    log_ratio = logprobs - old_logprobs  # (N,)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    policy = -torch.minimum(ratio * advantages, clipped * advantages)
    kl = torch.zeros_like(logprobs) if ref_logprobs is None else k3_kl(logprobs, ref_logprobs)
    per_token = policy + kl_coef * kl if kl_coef > 0 else policy
    if weights is not None:
        per_token = per_token * weights
    with torch.no_grad():
        low = (ratio < 1 - clip_low) & (advantages < 0)
        high = (ratio > 1 + clip_high) & (advantages > 0)
        drift = log_ratio.abs()
        sums = {
            "policy_loss": policy if weights is None else policy * weights,
            "approx_kl": k3_kl(old_logprobs, logprobs),
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low | high,
            "sampling/sampling_logp_difference/mean": drift,
            "sampling/importance_sampling_ratio/mean": ratio,
        } | ({} if ref_logprobs is None else {"kl": kl})
        maxima = {"sampling/sampling_logp_difference/max": drift, "sampling/importance_sampling_ratio/max": ratio}
    return LossOutput(
        per_token.sum() / denominator,
        {name: value.detach().sum() for name, value in sums.items()},
        {name: value.max() for name, value in maxima.items() if value.numel()},
    )


def k3_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || other) from tokens that the policy sampled; both (N,), returns (N,).

    k3 estimator: unbiased and never negative. http://joschu.net/blog/kl-approx.html
    """
    log_ratio = other_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio
