"""REINFORCE++ advantages, normalized over the batch, with or without a group baseline.

Pure functions of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import groups_that_agree


def whiten(values: Tensor, *, valid: Tensor, eps: float = 1e-8, ddof: int = 0) -> Tensor:
    """Return (value - mean) / (deviation + eps) over all valid values of any shape.

    Values that are not valid become 0. If all valid values are equal, the result is 0.
    """
    if not valid.any():
        return torch.zeros_like(values)
    count = valid.sum()
    known = values.masked_fill(~valid, 0.0)
    centered = (known - known.sum() / count).masked_fill(~valid, 0.0)
    deviation = (centered.square().sum() / (count - ddof).clamp(min=1)).sqrt()
    equal = groups_that_agree(values.reshape(1, -1), valid=valid.reshape(1, -1))[0]
    return torch.where(equal, torch.zeros_like(values), centered / (deviation + eps))


def reinforce_pp_advantages(
    rewards: Tensor, *, valid: Tensor | None = None, baseline: bool = False, eps: float = 1e-8
) -> Tensor:
    """Return rewards whitened over the batch, minus the group mean if `baseline` is True.

    Each episode counts once in the mean and the deviation. Implementations that whiten over tokens
    give long episodes more weight, and groups with equal rewards a nonzero advantage.

    Args:
        rewards: Shape (P, G), float, as in `group_advantages`.
        valid: Shape (P, G), bool, as in `group_advantages`.
        baseline: Subtract the group mean first.
        eps: Added to the standard deviation.

    Returns:
        Advantages, shape (P, G); zeros for void episodes. With `baseline`, groups without reward
        variance get zeros too. Without it they are compared with the other tasks of the batch.

    References:
        arXiv 2501.03262, eq. 8-10, and the variant "w/ baseline" of the same section.
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    if not baseline:
        return whiten(rewards, valid=valid, eps=eps)
    known = rewards.masked_fill(~valid, 0.0)
    centered = known - known.sum(dim=-1, keepdim=True) / valid.sum(dim=-1, keepdim=True).clamp(
        min=1
    )  # (P, G)
    dead = ~valid | groups_that_agree(rewards, valid=valid)[:, None]
    return whiten(centered.masked_fill(dead, 0.0), valid=valid, eps=eps).masked_fill(dead, 0.0)
