"""Credit by turns: compare the return of each turn with the mean return of the group.

The reward of a turn is credited to that turn and the turns before it. See `gigpo.py` for groups of
equal states.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages import (
    AdvantageInputs,
    Fraction,
    NonNegative,
    advantage,
)


@advantage(baseline="group", is_linear=True)
def turns(
    inputs: AdvantageInputs,
    *,
    std: Literal["group", "batch", "none"] = "group",
    eps: NonNegative = 1e-4,
    discount: Fraction = 1.0,
    invalid_call_penalty: NonNegative = 0.0,
) -> Tensor:
    """Return the discounted return of each turn minus the group's mean return, shape (P, G, K).

    Args:
        inputs: Rewards of one step.
        std: Standard deviation by which advantages are divided: that of the group, of the batch, or
            none.
        eps: Number added to the standard deviation. Reward units. At least 0.
        discount: Discount for each turn between an action and its reward. 0 to 1.
        invalid_call_penalty: Penalty for each refused or unreadable tool call, subtracted from the
            reward of its turn. Reward units. At least 0.
    """
    returns = turn_returns(inputs, discount=discount, invalid_call_penalty=invalid_call_penalty)
    return turn_advantages(returns, valid=inputs.turn_valid, std=std, eps=eps)


def turn_returns(
    inputs: AdvantageInputs, *, discount: float, invalid_call_penalty: float
) -> Tensor:
    """Return the discounted return of each turn after the penalties, shape (P, G, K)."""
    rewards = inputs.turn_rewards.double() - invalid_call_penalty * inputs.invalid_calls.double()
    return returns_to_go(rewards.to(inputs.turn_rewards.dtype), discount=discount)


def returns_to_go(rewards: Tensor, *, discount: float) -> Tensor:
    """Return R_k = sum over j >= k of discount^(j - k) * r_j.

    Args:
        rewards: Reward of each turn, shape (..., K).
        discount: Discount per turn, 0 to 1.

    Returns:
        Returns, shape (..., K).

    References:
        Sutton and Barto, 2nd edition, eq. 3.8. GiGPO, arXiv 2505.10978, section 4.3.
    """
    returns = rewards.clone()
    for k in range(rewards.shape[-1] - 2, -1, -1):
        returns[..., k] = rewards[..., k] + discount * returns[..., k + 1]
    return returns


def turn_advantages(
    returns: Tensor,
    *,
    valid: Tensor,
    std: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
) -> Tensor:
    """Return the advantage of each turn: its return minus the group's mean return.

    In the mean and the deviation each episode counts once, regardless of its number of turns. With
    discount 1 and a reward only at the end, the result equals GRPO's advantage exactly.

    Args:
        returns: Return of each turn, shape (P, G, K). Ignored if `valid` is False.
        valid: Shape (P, G, K), bool. False for missing turns and void episodes.
        std: Divide by the standard deviation of the group, of the batch, or not at all.
        eps: Added to the standard deviation.

    Returns:
        Advantages, shape (P, G, K). Turns that are not valid get zeros, and so do groups with equal
        returns or a single valid member.

    References:
        arXiv 2505.11821 (turn-level advantages). The baseline is REINFORCE's, constant in a group.
    """
    turns = valid.sum(dim=-1)  # (P, G)
    share = (
        valid.to(returns.dtype) / turns.clamp(min=1)[..., None]
    )  # (P, G, K) sums to 1 in each episode
    members = (turns > 0).sum(dim=-1)  # (P,)
    known = returns.masked_fill(~valid, 0.0)
    mean = (share * known).sum(dim=(1, 2)) / members.clamp(min=1)  # (P,)
    centered = (known - mean[:, None, None]).masked_fill(~valid, 0.0)
    if std == "group":
        squares = (share * centered.square()).sum(dim=(1, 2))  # (P,)
        centered = centered / ((squares / members.clamp(min=1)).sqrt() + eps)[:, None, None]
    elif std == "batch":
        everyone = members.sum().clamp(min=1)
        from_mean = known - (share * known).sum() / everyone
        centered = centered / (((share * from_mean.square()).sum() / everyone).sqrt() + eps)
    highest = returns.masked_fill(~valid, -torch.inf).amax(dim=(1, 2))
    lowest = returns.masked_fill(~valid, torch.inf).amin(dim=(1, 2))
    dead = (highest <= lowest) | (members < 2)
    return centered.masked_fill(~valid | dead[:, None, None], 0.0)
