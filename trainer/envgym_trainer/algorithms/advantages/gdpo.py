"""GDPO: each reward part normalised within its group, then summed by weight, then normalised over the batch. Pure functions.

So a part with a small spread is heard beside one with a large spread, and different mixtures of parts with one sum stay apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import group_advantages, groups_that_agree
from envgym_trainer.algorithms.advantages.reinforce_pp import whiten


def gdpo_advantages(
    parts: Tensor, weights: Tensor, *, valid: Tensor, ddof: int = 0, eps: float = 1e-4
) -> Tensor:
    """whiten(sum_k weights[k] * (parts[k] - group mean) / (group deviation + eps)).

    Args:
        parts: (K, P, G) float, each part's value; anything, NaN included, where `valid` is False.
        weights: (K,) of the parts in the reward.
        valid: (K, P, G) bool; False for a void episode, and where the part did not apply.
        ddof, eps: of both normalisations. eps also keeps the float noise that opposed parts leave from being blown up.
    Returns: (P, G); zeros for episodes without any valid part and for dead groups, in which every part agrees.
    Source: arXiv 2601.05242, sec. 3 (decoupled normalisation, then batch-wise normalisation). Dead groups are masked, which the
        paper leaves to the mean being 0.
    """
    known = parts.masked_fill(~valid, 0.0).double()
    each = torch.stack(
        [
            group_advantages(k, valid=v, ddof=ddof, eps=eps)
            for k, v in zip(known, valid, strict=True)
        ]
    )  # (K, P, G)
    total = (weights.double()[:, None, None] * each).sum(dim=0)  # (P, G)
    agreed = torch.stack(
        [groups_that_agree(k, valid=v) for k, v in zip(known, valid, strict=True)]
    )  # (K, P)
    dead = ~valid.any(dim=0) | (agreed | (weights[:, None] == 0)).all(dim=0)[:, None]
    alive = whiten(total.masked_fill(dead, 0.0), valid=valid.any(dim=0), eps=eps, ddof=ddof)
    return alive.masked_fill(dead, 0.0).to(parts.dtype)
