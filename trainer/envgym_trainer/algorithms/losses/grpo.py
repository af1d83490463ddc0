"""The clipped policy-gradient loss of GRPO, token by token.

Left out: advantages (`advantages.py`), logprobs (`logprobs.py`), and sequence-level ratios (`gspo.py`).
"""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.kl import k3_kl as k3_kl
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.surrogate import clipped_surrogate, policy_output


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
    kl: str = "k3",
) -> LossOutput:
    """-sum(weight * (min(ratio * A, clip(ratio) * A) - kl_coef * kl)) / denominator.

    Args:
        logprobs: (N,) of the sampled tokens under the current policy, with gradient.
        old_logprobs: (N,) of the same tokens when they were sampled.
        advantages: (N,) the advantage of each token, usually its episode's.
        denominator: what the whole optimiser step divides by, usually its number of sampled tokens (token-level
            aggregation, DAPO); never this micro-batch's own count.
        clip_low, clip_high: the ratio is held within [1 - clip_low, 1 + clip_high].
        weights: (N,) factor of each token; None is 1.
        ref_logprobs: (N,) under the reference policy; needed when kl_coef > 0.
        kl_coef: weight of the estimate `kl` of KL(policy || reference).
    Returns: LossOutput; its numbers are told in `shared.policy_output`.
    Source: DeepSeekMath, arXiv 2402.03300, eq. 3; DAPO, arXiv 2503.14476, eq. 8 (two clips, token-level sum).
    """
    log_ratio = logprobs - old_logprobs  # (N,)
    ratio = log_ratio.exp()
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
