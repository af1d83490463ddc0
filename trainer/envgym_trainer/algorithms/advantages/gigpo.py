"""GiGPO's step groups: turns taken from one and the same state, in whatever episode, compared with each other. Pure functions.

Left out: what makes two states the same (`anchors.py`) and the returns (`advantages_turns.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def step_advantages(
    returns: Tensor, states: Tensor, *, scale_by_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """How much better each turn went on than the other turns that were taken from its state.

    Args:
        returns: (N,) discounted return from each turn on.
        states: (N,) int64, the anchor state of each turn; equal numbers form a step group.
        scale_by_std: divide by the step group's deviation; False is the paper's F_norm = 1.
        eps: added to the deviation.
    Returns: (N,); zeros for a turn whose state nobody else met and for step groups that agree. To be added to the episode's
        advantage times a weight: A = A_episode + step_weight * A_step.
    Source: GiGPO, arXiv 2505.10978, eq. 6-8 (step groups, A^S, and the sum with A^E).
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
