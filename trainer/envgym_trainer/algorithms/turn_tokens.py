"""Sampled tokens of each turn. A turn is a run of sampled tokens."""

from __future__ import annotations

import torch
from torch import Tensor


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
