"""REINFORCE loss: policy gradient without ratio and clip, for on-policy samples."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.surrogate import policy_output


def reinforce_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    denominator: float,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl: str = "k3",
) -> LossOutput:
    """Return -sum(weight * A * logprob) / denominator.

    Arguments are the same as in `grpo_loss`. `old_logprobs` are used only for metrics. Off-policy
    samples need importance weights (`correction.py`).

    References:
        Williams 1992, https://doi.org/10.1007/BF00992696. RLOO, arXiv 2402.14740, section 2
        (weights 1, divided by episodes).
    """
    never = torch.zeros_like(logprobs, dtype=torch.bool)
    return policy_output(
        -advantages * logprobs,
        logprobs,
        old_logprobs,
        ratio=(logprobs - old_logprobs).detach().exp(),
        low=never,
        high=never,
        denominator=denominator,
        weights=weights,
        ref_logprobs=ref_logprobs,
        kl_coef=kl_coef,
        kl=kl,
    )
