"""GSPO: one importance ratio for a whole episode, the geometric mean of its sampled tokens' ratios.

An episode's sequence is what the policy sampled in all its turns; what tools answered has no ratio and never enters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.surrogate import clipped_surrogate, policy_output


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    samples: Tensor,
    *,
    denominator: float,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl: str = "k3",
) -> LossOutput:
    """-sum(weight * min(s * A, clip(s) * A)) / denominator, s = exp(mean over the episode's tokens of the log ratio).

    Written as GSPO-token, s_t = sg(s) * p_t / sg(p_t), which has the value, the clipping and (where an episode's tokens share
    one advantage and weight) the gradient of the sequence's own loss, and allows an advantage for each token.

    Args:
        samples: (N,) int64, the episode of each token; an episode's tokens must all be here.
        others: as of `grpo_loss`; with weights 1 / |y| and the number of episodes as denominator this is the paper's mean.
    Returns: LossOutput.
    Source: arXiv 2507.18071, eq. 5 and 7 (GSPO), eq. 13-14 (GSPO-token); clips of sec. 5.1.
    """
    seen = samples.unique(return_inverse=True)[1]  # (N,) 0, 1, ... without gaps
    count = torch.zeros(
        int(seen.max()) + 1 if len(seen) else 0, dtype=logprobs.dtype, device=logprobs.device
    )
    log_ratio = (logprobs - old_logprobs).detach()
    total = torch.zeros_like(count).index_add(0, seen, log_ratio)
    count = count.index_add(0, seen, torch.ones_like(log_ratio))
    sequence = (total / count)[seen]  # (N,)
    ratio = (
        sequence + (logprobs - logprobs.detach())
    ).exp()  # the bracket is 0 and carries the gradient
    policy, low, high = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    return policy_output(
        policy,
        logprobs,
        old_logprobs,
        ratio=ratio,
        low=low,
        high=high,
        denominator=denominator,
        weights=weights,
        ref_logprobs=ref_logprobs,
        kl_coef=kl_coef,
        kl=kl,
    )
