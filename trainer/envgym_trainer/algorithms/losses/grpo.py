"""Clipped policy-gradient loss of GRPO, by token.

See `advantages.py` and `logprobs.py` for its inputs, and `gspo.py` for sequence-level ratios.
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
    """Return -sum(weight * (min(ratio * A, clip(ratio) * A) - kl_coef * kl)) / denominator.

    Args:
        logprobs: Logprobs of the sampled tokens under the current policy, shape (N,), with
            gradient.
        old_logprobs: Logprobs of the same tokens at sampling, shape (N,).
        advantages: Advantage of each token, shape (N,).
        denominator: Denominator of the whole optimizer step, usually its number of sampled tokens
            (DAPO). Never this micro-batch's count.
        clip_low: The ratio is clipped to [1 - clip_low, 1 + clip_high].
        clip_high: See `clip_low`.
        weights: Factor of each token, shape (N,); 1 by default.
        ref_logprobs: Logprobs under the reference policy, shape (N,). Required if kl_coef > 0.
        kl_coef: Weight of the estimate of KL(policy || reference).
        kl: Estimator; see `kl.py`.

    Returns:
        LossOutput. See `shared.policy_output` for its metrics.

    References:
        DeepSeekMath, arXiv 2402.03300, eq. 3. DAPO, arXiv 2503.14476, eq. 8 (two clips, token-level
        sum).
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
