"""RLOO: each episode against the mean of the others in its group. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import groups_that_agree


def rloo_advantages(rewards: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """r_i - mean of the other valid members' rewards: an unbiased baseline, since it does not look at r_i.

    Args: rewards (P, G) float, valid (P, G) bool as in `group_advantages`.
    Returns: (P, G); zeros for void episodes, for a group that agrees and for one with a single valid member. It is n / (n - 1)
        times the distance to the group's own mean, n its valid members.
    Source: arXiv 2402.14740, sec. 2 (RLOO); Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    known = rewards.masked_fill(~valid, 0.0)
    others = (valid.sum(dim=-1, keepdim=True) - 1).clamp(min=1)  # (P, 1)
    baseline = (known.sum(dim=-1, keepdim=True) - known) / others  # (P, G)
    return (known - baseline).masked_fill(
        ~valid | groups_that_agree(rewards, valid=valid)[:, None], 0.0
    )
