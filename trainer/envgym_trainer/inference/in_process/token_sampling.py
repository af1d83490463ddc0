"""From logits to tokens: inverse transform sampling, one uniform number a row.

A row's token depends on its own logits and its own number, so on nobody else in the batch. No top-k, no top-p: they would
sample from another distribution than the one that is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256


def sample(logits: Tensor, temperatures: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token a row.

    Args:
        logits: (B, V).
        temperatures: (B,) float; 0 takes the most likely token.
        uniforms: (B,) float64 in [0, 1); unused where the temperature is 0.
    Returns: (B,) token ids, and (B,) the natural log of their probability at the sampling temperature; at temperature 0,
        where every sampled token has probability 1, at temperature 1.
    """
    greedy = temperatures == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperatures).unsqueeze(1)  # (B, V)
    weights = scaled.sub_(scaled.amax(1, keepdim=True)).exp_()
    ids, total = _inverse_cdf(weights, uniforms)
    if greedy.any():
        ids = torch.where(greedy, logits.argmax(1), ids)
    chosen = weights.gather(1, ids.unsqueeze(1)).squeeze(1)
    return ids, chosen.log() - total.log().float()


def _inverse_cdf(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The first token whose cumulated weight exceeds `uniform * total`, never one of weight 0; and the total, (B,).

    In two levels, blocks and then tokens of one block, cumulated in float64: cheaper than cumulating the whole vocabulary,
    and exact where float32 would have lost the tail.
    """
    rows, vocabulary = weights.shape
    if short := -vocabulary % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, short))
    blocks = weights.view(rows, -1, BLOCK)
    sums = blocks.sum(2).double()  # (B, V / BLOCK)
    total = sums.sum(1)
    block, rest = _first_above(sums, (uniforms * total).unsqueeze(1))
    inside = blocks[torch.arange(rows, device=weights.device), block].double()  # (B, BLOCK)
    token, _ = _first_above(inside, rest)
    return block * BLOCK + token, total


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first cumulated weight above the target (B, 1), and what is left of the target before it."""
    cumulated = weights.cumsum(1)
    # Rounding can leave the target at the very end; the last index with a weight is meant then.
    target = torch.minimum(target, cumulated[:, -1:].mul(1 - 1e-15))
    index = torch.searchsorted(cumulated, target, right=True).clamp_(max=weights.shape[1] - 1)
    return index.squeeze(1), (target - (cumulated - weights).gather(1, index)).clamp_(min=0)
