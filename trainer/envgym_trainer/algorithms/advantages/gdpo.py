"""GDPO advantages: normalize each reward part in its group, add them up, normalize over the batch.

A part with a small spread keeps its influence beside a part with a large spread, and different
mixtures of parts with the same sum stay distinct.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, NonNegative, advantage
from envgym_trainer.algorithms.advantages.group import group_advantages, groups_that_agree

ROUNDING = 8.0
"""Spread that counts as rounding error, in units of the least significant digit of a part."""


def normalized_parts(inputs: AdvantageInputs, *, ddof: Literal[0, 1] = 0, **_: Any) -> Tensor:
    """Return weight * (part - group mean) / group deviation, shape (M, P, G), float64.

    No number is added to the deviation: parts of different scale that cancel each other must leave
    zero, not the difference of two such numbers, which the batch's deviation would enlarge.
    """
    valid = inputs.part_valid
    parts = inputs.parts.masked_fill(~valid, 0.0)
    rounding = ROUNDING * torch.finfo(parts.dtype).eps * parts.abs().amax(dim=-1).double()  # (M, P)
    each = torch.stack(
        [
            group_advantages(part, valid=known, scale_by_std=False)
            for part, known in zip(parts.double(), valid, strict=True)
        ]
    )  # (M, P, G)
    freedom = (valid.sum(dim=-1) - ddof).clamp(min=1)  # (M, P)
    variance = each.square().sum(dim=-1) / freedom
    # The squared rounding error matters only for a part whose values differ by rounding alone.
    deviation = (variance + rounding.square()).sqrt()[..., None]  # (M, P, 1)
    each = torch.where(each == 0, each, each / deviation)
    return inputs.part_weights.double()[:, None, None] * each


@advantage(baseline="group", is_linear=False, part_shares=normalized_parts)
def gdpo(inputs: AdvantageInputs, *, ddof: Literal[0, 1] = 0, eps: NonNegative = 1e-4) -> Tensor:
    """Return the sum of the normalized parts, whitened over the batch, shape (P, G).

    Episodes without a valid part get zeros, and so do groups in which no part varies.

    Args:
        inputs: Rewards of one step.
        ddof: Delta degrees of freedom of both standard deviations: squares are divided by n - ddof.
        eps: Smallest standard deviation of the batch that counts: its square is added to the
            variance. At least 0.

    References:
        arXiv 2601.05242, section 3. The authors' code adds 1e-6 to a part's deviation in its group
        and 1e-8 to the batch's variance. Groups without variance are masked here; in the paper
        their mean is 0.
    """
    valid = inputs.part_valid
    parts = inputs.parts.masked_fill(~valid, 0.0).double()
    total = normalized_parts(inputs, ddof=ddof).sum(dim=0)  # (P, G)
    agreed = torch.stack(
        [groups_that_agree(k, valid=v) for k, v in zip(parts, valid, strict=True)]
    )  # (M, P)
    is_idle = agreed | (inputs.part_weights[:, None] == 0)  # (M, P)
    dead = ~valid.any(dim=0) | is_idle.all(dim=0)[:, None]  # (P, G)
    known = valid.any(dim=0)
    count = known.sum().clamp(min=1)
    total = total.masked_fill(dead, 0.0)
    centered = (total - total.sum() / count).masked_fill(dead, 0.0)  # (P, G)
    variance = (total - total.sum() / count)[known].square().sum() / (count - ddof).clamp(min=1)
    deviation = (variance + eps**2).sqrt()
    return torch.where(centered == 0, centered, centered / deviation).to(inputs.parts.dtype)
