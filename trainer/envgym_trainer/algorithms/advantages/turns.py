"""Credit by turns: return-to-go advantages, assigned to the tokens of each turn.

A turn is a run of sampled tokens. The reward of a turn is credited to that turn and the turns
before it. Pure functions of tensors. See `advantages_steps.py` for groups of equal states.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


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


def turn_spans(loss_mask: Tensor) -> list[tuple[int, int]]:
    """Return (start, end) of each run of True in a mask of shape (T,). The end is exclusive."""
    padded = torch.cat([loss_mask.new_zeros(1), loss_mask, loss_mask.new_zeros(1)]).int()
    edges = padded.diff().nonzero().flatten().tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def spread_over_turns(values: Tensor, loss_mask: Tensor) -> Tensor:
    """Assign the value of each turn to its sampled tokens. Other tokens get 0.

    Args:
        values: Shape (K,).
        loss_mask: Shape (T,), bool, with K runs of sampled tokens.

    Returns:
        Shape (T,).

    Raises:
        ValueError: If the number of turns is not K.
    """
    spans = turn_spans(loss_mask)
    if len(spans) != len(values):
        raise ValueError(
            f"{len(values)} turn values for {len(spans)} turns of sampled tokens. Pass one value "
            "for each turn."
        )
    out = torch.zeros(len(loss_mask), dtype=values.dtype)
    for value, (start, end) in zip(values, spans, strict=True):
        out[start:end] = value
    return out
