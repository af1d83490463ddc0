"""GSPO loss: one importance ratio per episode, the geometric mean of its tokens' ratios.

The sequence of an episode is its sampled tokens of all turns. Observations are not part of it.
"""

from __future__ import annotations

import torch

from envgym_trainer.algorithms.losses import LossInputs, Positive, TokenLosses, loss
from envgym_trainer.algorithms.surrogate import clipped_surrogate


@loss(uses_ratio=True, needs_whole_samples=True)
def gspo(
    inputs: LossInputs, *, clip_low: Positive = 3e-4, clip_high: Positive = 4e-4
) -> TokenLosses:
    """Return -min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A) of each token.

    s = exp(mean log ratio over the episode's tokens). The code uses GSPO-token, s_t = sg(s) * p_t /
    sg(p_t). It has the same value and clipping as the sequence loss, and the same gradient if all
    tokens of an episode share one advantage and weight. It also allows an advantage for each token.

    With weights 1 / |y| and the number of episodes as denominator, this is the paper's mean.

    Args:
        inputs: Tokens of one micro-batch. All tokens of an episode must be present.
        clip_low: Distance of the ratio's lower clip from 1. Above 0.
        clip_high: Distance of the ratio's upper clip from 1. Above 0.

    References:
        arXiv 2507.18071, eq. 5 and 7 (GSPO), eq. 13-14 (GSPO-token), clips of section 5.1.
    """
    logprobs = inputs.logprobs
    seen = inputs.samples.unique(return_inverse=True)[1]  # (N,) 0, 1, ... without gaps
    count = torch.zeros(
        int(seen.max()) + 1 if len(seen) else 0, dtype=logprobs.dtype, device=logprobs.device
    )
    log_ratio = (logprobs - inputs.old_logprobs).detach()
    total = torch.zeros_like(count).index_add(0, seen, log_ratio)
    count = count.index_add(0, seen, torch.ones_like(log_ratio))
    sequence = (total / count)[seen]  # (N,)
    # The bracket is 0 and carries the gradient.
    ratio = (sequence + (logprobs - logprobs.detach())).exp()
    return clipped_surrogate(ratio, inputs.advantages, clip_low=clip_low, clip_high=clip_high)
