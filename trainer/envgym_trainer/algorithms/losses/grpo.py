"""Clipped policy-gradient loss of GRPO, by token. See `gspo.py` for sequence-level ratios."""

from __future__ import annotations

from envgym_trainer.algorithms.losses import LossInputs, Positive, TokenLosses, loss
from envgym_trainer.algorithms.surrogate import clipped_surrogate


@loss(uses_ratio=True)
def grpo(
    inputs: LossInputs, *, clip_low: Positive = 0.2, clip_high: Positive = 0.28
) -> TokenLosses:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) of each token.

    Args:
        inputs: Tokens of one micro-batch.
        clip_low: Distance of the ratio's lower clip from 1. Above 0.
        clip_high: Distance of the ratio's upper clip from 1. Above 0. A value above `clip_low`
            leaves room to explore (DAPO).

    References:
        DeepSeekMath, arXiv 2402.03300, eq. 3. DAPO, arXiv 2503.14476, eq. 8 (two clips, token-level
        sum).
    """
    ratio = (inputs.logprobs - inputs.old_logprobs).exp()  # (N,)
    return clipped_surrogate(ratio, inputs.advantages, clip_low=clip_low, clip_high=clip_high)
