"""REINFORCE++ advantages: rewards normalized over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, NonNegative, advantage
from envgym_trainer.algorithms.advantages.group import groups_that_agree


@advantage(baseline="batch", is_linear=True)
def reinforce_pp(inputs: AdvantageInputs, *, eps: NonNegative = 1e-4) -> Tensor:
    """Return rewards whitened over the batch, shape (P, G).

    Each episode counts once in the mean and the deviation. Implementations that whiten over tokens
    give long episodes more weight. A group without reward variance is compared with the other tasks
    of the batch.

    Args:
        inputs: Rewards of one step.
        eps: Number added to the standard deviation. Reward units. At least 0.

    References:
        arXiv 2501.03262, eq. 8-10.
    """
    return whiten(inputs.rewards, valid=inputs.valid, eps=eps)


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
