"""CISPO loss: clip the importance weight, not the token, so every token keeps its gradient."""

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
    """Return -sum(weight * sg(clip(ratio)) * A * logprob) / denominator.

    The ratio is clipped to [1 - clip_low, 1 + clip_high]. clip_low = 1 means no lower bound, as in
    the paper. Other arguments are the same as in `grpo_loss`.

    Returns:
        LossOutput. `clip_ratio/...` counts clipped tokens, regardless of the sign of the advantage.

    References:
        MiniMax-M1, arXiv 2506.13585, eq. 4-5. Upper bound of 5: ScaleRL, arXiv 2510.13786.
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
