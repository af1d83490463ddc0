"""CISPO loss: clip the importance weight, not the token, so every token keeps its gradient."""

from __future__ import annotations

from envgym_trainer.algorithms.losses import LossInputs, Positive, TokenLosses, loss


@loss(uses_ratio=True)
def cispo(
    inputs: LossInputs, *, clip_low: Positive = 1.0, clip_high: Positive = 4.0
) -> TokenLosses:
    """Return -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprob of each token.

    The metrics `clip_ratio/...` count clipped tokens, regardless of the sign of the advantage.

    Args:
        inputs: Tokens of one micro-batch.
        clip_low: Distance of the weight's lower bound from 1. Above 0. 1 means no lower bound, as
            in the paper.
        clip_high: Distance of the weight's upper bound from 1. Above 0.

    References:
        MiniMax-M1, arXiv 2506.13585, eq. 4-5. Upper bound of 5: ScaleRL, arXiv 2510.13786.
    """
    ratio = (inputs.logprobs - inputs.old_logprobs).detach().exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return TokenLosses(
        -weight * inputs.advantages * inputs.logprobs,
        ratio=ratio,
        low=ratio < 1 - clip_low,
        high=ratio > 1 + clip_high,
    )
