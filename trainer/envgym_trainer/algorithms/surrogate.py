"""Clipped surrogate of PPO, which several losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.losses import TokenLosses


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> TokenLosses:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A).

    Args:
        ratio: Importance ratio, shape (N,), with gradient.
        advantages: Shape (N,).
        clip_low: Distance of the lower clip from 1.
        clip_high: Distance of the upper clip from 1.

    Returns:
        Loss of each token. Its masks mark the tokens without a gradient because of a clip.

    References:
        PPO, arXiv 1707.06347, eq. 7. Two clips: DAPO, arXiv 2503.14476, eq. 8.
    """
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return TokenLosses(
        -torch.minimum(ratio * advantages, clipped * advantages),
        ratio=ratio,
        low=(ratio < 1 - clip_low) & (advantages < 0),
        high=(ratio > 1 + clip_high) & (advantages > 0),
    )
