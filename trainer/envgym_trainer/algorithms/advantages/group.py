"""Turns the rewards of a group into advantages: how much better each episode was than its siblings.

Pure functions of tensors. Left out: which episodes form a group (the loop knows), and credit inside an episode
(`advantages_turns.py`, `advantages_steps.py`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Std = Literal["group", "batch"]


def group_advantages(
    rewards: Tensor,
    *,
    valid: Tensor | None = None,
    scale_by_std: bool = True,
    std: Std = "group",
    ddof: int = 0,
    eps: float = 1e-4,
) -> Tensor:
    """How much better than its siblings each episode was.

    Args:
        rewards: (P, G) float; anything, NaN included, where `valid` is False.
        valid: (P, G) bool; False for a void episode, which counts neither for the mean nor for the deviation. None: all valid.
        scale_by_std: divide by the deviation (GRPO); False is Dr. GRPO.
        std: the deviation inside each group, or "batch": that of all valid rewards of the batch.
        ddof: 0 divides the squares by n, 1 by n - 1 (TRL, verl).
        eps: added to the deviation, in reward units.
    Returns: (P, G) advantages; zeros for void episodes, for a group that agrees and for one with a single valid member.
    Raises: ValueError for G = 1, which leaves nothing to compare, or for a valid reward that is not finite.
    Source: DeepSeekMath, arXiv 2402.03300, sec. 4.1.2; Dr. GRPO, arXiv 2503.20783; std of the
        batch: arXiv 2508.08221.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards must be (P, G) with at least 2 episodes a group, got {tuple(rewards.shape)}. Set group_size to 2 or more."
        )
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    if not rewards[valid].isfinite().all():
        raise ValueError(
            "a valid episode has a reward that is not finite. Mark it void in `valid`, or make the reward finite."
        )
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)  # (P, 1)
    known = rewards.masked_fill(~valid, 0.0)
    centered = (known - known.sum(dim=-1, keepdim=True) / count).masked_fill(~valid, 0.0)  # (P, G)
    if scale_by_std:
        # By default inside the group, not the batch: tasks differ in difficulty, siblings do not.
        squares = centered.square().sum(dim=-1, keepdim=True)
        freedom = (count - ddof).clamp(min=1)
        if std == "batch":
            from_mean = (known - known.sum() / valid.sum().clamp(min=1)).masked_fill(~valid, 0.0)
            squares = from_mean.square().sum()
            freedom = (valid.sum() - ddof).clamp(min=1)
        deviation = (squares / freedom).sqrt()
        centered = centered / (deviation + eps)
    # Told by comparing, not by a small deviation: the mean of equal floats can miss them by a rounding error.
    return centered.masked_fill(~valid | groups_that_agree(rewards, valid=valid)[:, None], 0.0)


def groups_that_agree(rewards: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Which groups hold no lesson: all valid rewards equal, or fewer than two of them.

    Args: rewards (P, G) float, valid (P, G) bool as in `group_advantages`.
    Returns: (P,) bool.
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    highest = rewards.masked_fill(~valid, -torch.inf).amax(dim=-1)
    lowest = rewards.masked_fill(~valid, torch.inf).amin(dim=-1)
    return highest <= lowest  # -inf <= inf for a group without a valid member
