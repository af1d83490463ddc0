"""Credit for single turns: what a turn brought from there on, against the group, laid on that turn's own tokens.

A turn is a run of sampled tokens. The reward that `step` gave for a turn belongs to it and to the turns before it, and to no
token after it. Pure functions of tensors. Left out: groups of equal states (`advantages_steps.py`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def returns_to_go(rewards: Tensor, *, discount: float) -> Tensor:
    """R_k = sum over j >= k of discount^(j - k) * r_j.

    Args: rewards (..., K), the reward of each turn; discount for each turn, 0 to 1.
    Returns: (..., K).
    Source: Sutton and Barto, 2nd edition, eq. 3.8; GiGPO, arXiv 2505.10978, sec. 4.3.
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
    """How much better the rest of the episode went from each turn on than the group's episodes did on average.

    The baseline is the group's mean return, in which each episode counts once, however many turns it took; likewise the
    deviation. With discount 1 and a reward at the end alone this is GRPO's advantage, to the last digit.

    Args:
        returns: (P, G, K) of each turn; anything where `valid` is False.
        valid: (P, G, K) bool; False for turns that were not taken and for void episodes.
        std: divide by the deviation of the group's returns, of the batch's, or not.
        eps: added to the deviation.
    Returns: (P, G, K); zeros where not valid, for groups whose returns all agree, and for those with one valid member.
    Source: arXiv 2505.11821 (turn-level advantages); the baseline is REINFORCE's, constant within a group.
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
    """(start, end) of each run of sampled tokens in a (T,) bool mask; end is one past the last."""
    padded = torch.cat([loss_mask.new_zeros(1), loss_mask, loss_mask.new_zeros(1)]).int()
    edges = padded.diff().nonzero().flatten().tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def spread_over_turns(values: Tensor, loss_mask: Tensor) -> Tensor:
    """Each turn's value on each of its sampled tokens, 0 on all others.

    Args: values (K,), loss_mask (T,) bool with K runs of sampled tokens.
    Returns: (T,).
    Raises: ValueError where there are not K turns.
    """
    spans = turn_spans(loss_mask)
    if len(spans) != len(values):
        raise ValueError(
            f"{len(values)} turn values for {len(spans)} turns of sampled tokens. Give one value for each turn."
        )
    out = torch.zeros(len(loss_mask), dtype=values.dtype)
    for value, (start, end) in zip(values, spans, strict=True):
        out[start:end] = value
    return out
