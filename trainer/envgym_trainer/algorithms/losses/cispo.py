"""CISPO: the importance weight is clipped, not the token: every token keeps its gradient, none weighs without bound."""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.surrogate import policy_output


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    denominator: float,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl: str = "k3",
) -> LossOutput:
    """-sum(weight * sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprob) / denominator.

    Args: as of `grpo_loss`. clip_low = 1 is no lower bound, as in the paper.
    Returns: LossOutput; `clip_ratio/...` count the tokens whose weight was clipped, whatever the sign of their advantage.
    Source: MiniMax-M1, arXiv 2506.13585, eq. 4-5; an upper bound of 5 as in ScaleRL, arXiv 2510.13786.
    """
    ratio = (logprobs - old_logprobs).detach().exp()
    policy = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages * logprobs
    return policy_output(
        policy,
        logprobs,
        old_logprobs,
        ratio=ratio,
        low=ratio < 1 - clip_low,
        high=ratio > 1 + clip_high,
        denominator=denominator,
        weights=weights,
        ref_logprobs=ref_logprobs,
        kl_coef=kl_coef,
        kl=kl,
    )
