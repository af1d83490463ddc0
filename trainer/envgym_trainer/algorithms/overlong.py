"""DAPO's soft overlong punishment: a reward that falls as an answer nears its limit. A pure function."""

from __future__ import annotations

from torch import Tensor


def overlong_penalty(lengths: Tensor, *, max_tokens: int, cache_tokens: int) -> Tensor:
    """0 up to max_tokens - cache_tokens, then falling in a straight line to -1 at max_tokens, -1 beyond.

    Args:
        lengths: any shape, sampled tokens of each episode.
        max_tokens: L_max. cache_tokens: L_cache, the width of the slope; 1 to max_tokens.
    Returns: of the same shape, to be added to the reward.
    Source: DAPO, arXiv 2503.14476, eq. 13.
    """
    return ((max_tokens - cache_tokens - lengths) / cache_tokens).clamp(min=-1.0, max=0.0)
