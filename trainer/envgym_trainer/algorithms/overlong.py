"""Soft overlong penalty of DAPO. A pure function of tensors."""

from __future__ import annotations

from torch import Tensor


def overlong_penalty(lengths: Tensor, *, max_tokens: int, cache_tokens: int) -> Tensor:
    """Return a penalty for responses near the token limit.

    The penalty is 0 up to max_tokens - cache_tokens, falls linearly to -1 at max_tokens, and stays
    -1.

    Args:
        lengths: Sampled tokens of each episode, any shape.
        max_tokens: L_max of the paper.
        cache_tokens: L_cache of the paper, the width of the slope; 1 to max_tokens.

    Returns:
        Penalty of the same shape. Add it to the reward.

    References:
        DAPO, arXiv 2503.14476, eq. 13.
    """
    return ((max_tokens - cache_tokens - lengths) / cache_tokens).clamp(min=-1.0, max=0.0)
