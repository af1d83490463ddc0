"""RLOO advantages: leave-one-out baseline. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import groups_that_agree


def rloo_advantages(rewards: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return each reward minus the mean reward of the other valid group members.

    The baseline is unbiased because it does not use the episode's reward. The result is n / (n - 1)
    times the distance to the group mean, with n valid members.

    Args:
        rewards: Shape (P, G), float, as in `group_advantages`.
        valid: Shape (P, G), bool, as in `group_advantages`.

    Returns:
        Advantages, shape (P, G). Void episodes get zeros, and so do groups with equal rewards or a
        single valid member.

    References:
        arXiv 2402.14740, section 2. Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    known = rewards.masked_fill(~valid, 0.0)
    others = (valid.sum(dim=-1, keepdim=True) - 1).clamp(min=1)  # (P, 1)
    baseline = (known.sum(dim=-1, keepdim=True) - known) / others  # (P, G)
    return (known - baseline).masked_fill(
        ~valid | groups_that_agree(rewards, valid=valid)[:, None], 0.0
    )
