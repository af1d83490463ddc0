"""GiGPO step advantages: compare turns that start from the same state. Pure functions of tensors.

See `anchors.py` for equality of states and `advantages_turns.py` for returns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def step_advantages(
    returns: Tensor, states: Tensor, *, scale_by_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """Return the advantage of each turn over the other turns from the same state.

    Args:
        returns: Discounted return from each turn, shape (N,).
        states: Anchor state of each turn, shape (N,), int64. Turns with equal numbers form a step
            group.
        scale_by_std: Divide by the standard deviation of the step group. False is F_norm = 1 of the
            paper.
        eps: Added to the standard deviation.

    Returns:
        Shape (N,). Turns with a unique state and step groups with equal returns get zeros. Use it
        as A = A_episode + step_weight * A_step.

    References:
        GiGPO, arXiv 2505.10978, eq. 6-8.
    """
    group = states.unique(return_inverse=True)[1]  # (N,)
    groups = int(group.max()) + 1 if len(group) else 0
    zeros = torch.zeros(groups, dtype=returns.dtype)
    count = zeros.index_add(0, group, torch.ones_like(returns))
    mean = zeros.index_add(0, group, returns) / count
    centered = returns - mean[group]
    highest = torch.full_like(zeros, -torch.inf).scatter_reduce(0, group, returns, "amax")
    lowest = torch.full_like(zeros, torch.inf).scatter_reduce(0, group, returns, "amin")
    if scale_by_std:
        deviation = (zeros.index_add(0, group, centered.square()) / count).sqrt()
        centered = centered / (deviation[group] + eps)
    return centered.masked_fill((highest <= lowest)[group], 0.0)
