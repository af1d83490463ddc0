"""GiGPO advantages: compare episodes, and turns that start from the same state."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from envgym_trainer.algorithms.advantages import (
    AdvantageInputs,
    Fraction,
    NonNegative,
    advantage,
)
from envgym_trainer.algorithms.advantages.group import group
from envgym_trainer.algorithms.advantages.turns import turn_returns


def episode_advantages(
    inputs: AdvantageInputs,
    *,
    std: Literal["group", "batch", "none"],
    ddof: Literal[0, 1],
    eps: NonNegative,
    **_: Any,
) -> Tensor:
    """Return the part of the advantage that all turns of an episode share, shape (P, G)."""
    return group(inputs, std=std, ddof=ddof, eps=eps)


@advantage(baseline="group", is_linear=False, linear_part=episode_advantages)
def gigpo(
    inputs: AdvantageInputs,
    *,
    std: Literal["group", "batch", "none"] = "group",
    ddof: Literal[0, 1] = 0,
    eps: NonNegative = 1e-4,
    discount: Fraction = 1.0,
    step_weight: NonNegative = 1.0,
    same_state: Literal["history", "observation"] = "history",
    invalid_call_penalty: NonNegative = 0.0,
) -> Tensor:
    """Return the episode's advantage plus the weighted advantage of the turn, shape (P, G, K).

    Args:
        inputs: Rewards of one step.
        std: Standard deviation by which advantages are divided. `none` is F_norm = 1 of the paper.
        ddof: Delta degrees of freedom of the episodes' standard deviation: squares are divided by
            n - ddof.
        eps: Number added to the standard deviation. Reward units. At least 0.
        discount: Discount for each turn between an action and its reward. 0 to 1.
        step_weight: Weight of the advantage among equal states (omega). At least 0.
        same_state: Criterion for equal states: the same conversation, or the same last observation
            as in the paper's code.
        invalid_call_penalty: Penalty for each refused or unreadable tool call, subtracted from the
            reward of its turn. Reward units. At least 0.

    References:
        GiGPO, arXiv 2505.10978, eq. 6-8.
    """
    whole = episode_advantages(inputs, std=std, ddof=ddof, eps=eps)  # (P, G)
    returns = turn_returns(
        inputs, discount=discount, invalid_call_penalty=invalid_call_penalty
    )  # (P, G, K)
    states = inputs.states if same_state == "history" else inputs.observations
    at = inputs.turn_valid
    steps = torch.zeros_like(returns)
    steps[at] = step_advantages(returns[at], states[at], scale_by_std=std != "none", eps=eps)
    return (whole[..., None] + step_weight * steps).masked_fill(~at, 0.0)


def step_advantages(
    returns: Tensor, states: Tensor, *, scale_by_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """Return the advantage of each turn over the other turns from the same state.

    Args:
        returns: Discounted return from each turn, shape (N,).
        states: Anchor state of each turn, shape (N,), int64. Turns with equal numbers form a step
            group.
        scale_by_std: Divide by the standard deviation of the step group. False is F_norm = 1 of the
            paper.
        eps: Added to the standard deviation.

    Returns:
        Shape (N,). Turns with a unique state and step groups with equal returns get zeros.
    """
    group = states.unique(return_inverse=True)[1]  # (N,)
    groups = int(group.max()) + 1 if len(group) else 0
    zeros = torch.zeros(groups, dtype=returns.dtype)
    count = zeros.index_add(0, group, torch.ones_like(returns))
    mean = zeros.index_add(0, group, returns) / count
    centered = returns - mean[group]
    highest = torch.full_like(zeros, -torch.inf).scatter_reduce(0, group, returns, "amax")
    lowest = torch.full_like(zeros, torch.inf).scatter_reduce(0, group, returns, "amin")
    if scale_by_std:
        deviation = (zeros.index_add(0, group, centered.square()) / count).sqrt()
        centered = centered / (deviation[group] + eps)
    return centered.masked_fill((highest <= lowest)[group], 0.0)
