"""REINFORCE++ advantages with the group mean as baseline."""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, NonNegative, advantage
from envgym_trainer.algorithms.advantages.group import groups_that_agree
from envgym_trainer.algorithms.advantages.reinforce_pp import whiten


@advantage(baseline="group", is_linear=True)
def reinforce_pp_baseline(inputs: AdvantageInputs, *, eps: NonNegative = 1e-4) -> Tensor:
    """Return rewards minus their group mean, whitened over the batch, shape (P, G).

    Groups without reward variance get zeros.

    Args:
        inputs: Rewards of one step.
        eps: Number added to the standard deviation. Reward units. At least 0.

    References:
        arXiv 2501.03262, eq. 8-10, the variant "w/ baseline".
    """
    rewards = inputs.rewards
    valid = inputs.valid
    known = rewards.masked_fill(~valid, 0.0)
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)  # (P, 1)
    centered = known - known.sum(dim=-1, keepdim=True) / count  # (P, G)
    dead = ~valid | groups_that_agree(rewards, valid=valid)[:, None]
    return whiten(centered.masked_fill(dead, 0.0), valid=valid, eps=eps).masked_fill(dead, 0.0)
