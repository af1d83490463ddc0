"""REINFORCE++: advantages in units of the whole batch's deviation, with and without a group's baseline. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import groups_that_agree


def whiten(values: Tensor, *, valid: Tensor, eps: float = 1e-8, ddof: int = 0) -> Tensor:
    """(value - mean) / (deviation + eps) over all valid values, whatever the shape; zeros elsewhere and where all are equal."""
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
    """Rewards, less the mean of their group where `baseline`, whitened over the batch.

    Each episode counts once in the batch's mean and deviation, however many tokens it has. (Implementations that whiten over
    tokens give a group that agrees an advantage that is not 0, and long episodes more say.)

    Args: rewards (P, G) float, valid (P, G) bool as in `group_advantages`; eps is added to the deviation.
    Returns: (P, G); zeros for void episodes. With `baseline` also for groups that agree or have one valid member; without, such a
        group still learns how it compares with the other tasks of the batch.
    Source: arXiv 2501.03262, eq. 8-10 (REINFORCE++), and the variant w/ baseline of the same section.
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
