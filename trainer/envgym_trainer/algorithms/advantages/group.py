"""Group-relative advantages: GRPO and Dr. GRPO. See `turns.py` for credit by turns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, NonNegative, advantage

Std = Literal["group", "batch"]


@advantage(baseline="group", is_linear=True)
def group(
    inputs: AdvantageInputs,
    *,
    std: Literal["group", "batch", "none"] = "group",
    ddof: Literal[0, 1] = 0,
    eps: NonNegative = 1e-4,
) -> Tensor:
    """Return the distance of each reward to the mean of its group, in standard deviations.

    Args:
        inputs: Rewards of one step.
        std: Standard deviation by which advantages are divided: group (GRPO), batch, or none (Dr.
            GRPO).
        ddof: Delta degrees of freedom of the standard deviation: squares are divided by n - ddof. 1
            is the choice of TRL and verl.
        eps: Number added to the standard deviation. Reward units. At least 0.
    """
    return group_advantages(
        inputs.rewards,
        valid=inputs.valid,
        scale_by_std=std != "none",
        std="batch" if std == "batch" else "group",
        ddof=ddof,
        eps=eps,
    )


def group_advantages(
    rewards: Tensor,
    *,
    valid: Tensor | None = None,
    scale_by_std: bool = True,
    std: Std = "group",
    ddof: int = 0,
    eps: float = 1e-4,
) -> Tensor:
    """Return group-relative advantages.

    Args:
        rewards: Episode rewards, shape (P, G), float. Ignored if `valid` is False, so NaN is
            allowed there.
        valid: Shape (P, G), bool. False excludes a void episode from mean and deviation. By default
            all are valid.
        scale_by_std: Divide by the standard deviation (GRPO). False gives Dr. GRPO.
        std: Standard deviation of each group, or of all valid rewards of the batch.
        ddof: 0 divides the squares by n, 1 by n - 1 (TRL, verl).
        eps: Added to the standard deviation, in reward units.

    Returns:
        Advantages, shape (P, G). Void episodes get zeros, and so do groups with equal rewards or a
        single valid member.

    Raises:
        ValueError: If G is 1, because nothing can be compared, or if a valid reward is not finite.

    References:
        DeepSeekMath, arXiv 2402.03300, section 4.1.2. Dr. GRPO, arXiv 2503.20783. Standard
            deviation of the batch: arXiv 2508.08221.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            "rewards must be (P, G) with at least 2 episodes a group, got "
            f"{tuple(rewards.shape)}. Set group_size to 2 or more."
        )
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    if not rewards[valid].isfinite().all():
        raise ValueError(
            "a valid episode has a reward that is not finite. Mark it void in `valid`, or make the "
            "reward finite."
        )
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)  # (P, 1)
    known = rewards.masked_fill(~valid, 0.0)
    centered = (known - known.sum(dim=-1, keepdim=True) / count).masked_fill(~valid, 0.0)  # (P, G)
    if scale_by_std:
        # The default is the group, not the batch, because tasks differ in difficulty.
        squares = centered.square().sum(dim=-1, keepdim=True)
        freedom = (count - ddof).clamp(min=1)
        if std == "batch":
            from_mean = (known - known.sum() / valid.sum().clamp(min=1)).masked_fill(~valid, 0.0)
            squares = from_mean.square().sum()
            freedom = (valid.sum() - ddof).clamp(min=1)
        deviation = (squares / freedom).sqrt()
        centered = centered / (deviation + eps)
    # Compare the rewards, not the deviation: the mean of equal floats may have a rounding error.
    return centered.masked_fill(~valid | groups_that_agree(rewards, valid=valid)[:, None], 0.0)


def groups_that_agree(rewards: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return which groups have no reward variance, or fewer than two valid rewards.

    Args:
        rewards: Shape (P, G), float, as in `group_advantages`.
        valid: Shape (P, G), bool, as in `group_advantages`.

    Returns:
        Shape (P,), bool.
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    highest = rewards.masked_fill(~valid, -torch.inf).amax(dim=-1)
    lowest = rewards.masked_fill(~valid, torch.inf).amin(dim=-1)
    return highest <= lowest  # -inf <= inf if a group has no valid member
