"""GDPO advantages: normalize each reward part in its group, add them up, normalize over the batch.

A part with a small spread keeps its influence beside a part with a large spread, and different
mixtures of parts with the same sum stay distinct. Pure functions of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages.group import group_advantages, groups_that_agree
from envgym_trainer.algorithms.advantages.reinforce_pp import whiten


def gdpo_advantages(
    parts: Tensor, weights: Tensor, *, valid: Tensor, ddof: int = 0, eps: float = 1e-4
) -> Tensor:
    """Return whiten(sum_k weights[k] * (parts[k] - group mean) / (group deviation + eps)).

    Args:
        parts: Value of each part, shape (K, P, G), float. Ignored if `valid` is False.
        weights: Weights of the parts in the reward, shape (K,).
        valid: Shape (K, P, G), bool. False for a void episode, or if the part does not apply.
        ddof: Used in both normalizations; see `group_advantages`.
        eps: Used in both normalizations. It also keeps float noise of opposed parts small.

    Returns:
        Advantages, shape (P, G). Episodes without a valid part get zeros, and so do groups in which
        no part varies.

    References:
        arXiv 2601.05242, section 3. Groups without variance are masked here; in the paper their
        mean is 0.
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
