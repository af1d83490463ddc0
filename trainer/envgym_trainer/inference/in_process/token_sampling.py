"""Sample tokens from logits by inverse transform sampling, with one uniform number per row.

A row's token depends only on its logits and its number, not on the batch. Top-k and top-p are not
supported: they would sample from another distribution than the trained one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

BLOCK = 256


def sample(logits: Tensor, temperatures: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token per row.

    Args:
        logits: Logits, shape (B, V).
        temperatures: Temperatures, shape (B,), float. 0 selects the most likely token.
        uniforms: Numbers in [0, 1), shape (B,), float64. Not used if the temperature is 0.

    Returns:
        Token ids and their logprobs at the sampling temperature, both of shape (B,). If the
        temperature is 0, the logprob is the one at temperature 1.
    """
    greedy = temperatures == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperatures).unsqueeze(1)  # (B, V)
    weights = scaled.sub_(scaled.amax(1, keepdim=True)).exp_()
    ids, total = _inverse_cdf(weights, uniforms)
    if greedy.any():
        ids = torch.where(greedy, logits.argmax(1), ids)
    chosen = weights.gather(1, ids.unsqueeze(1)).squeeze(1)
    return ids, chosen.log() - total.log().float()


def constrain(logits: Tensor, choices: Sequence[Collection[int] | None]) -> None:
    """Remove the tokens that a row does not allow.

    Args:
        logits: Logits, shape (B, V). They are changed in place.
        choices: Allowed ids of each row. None allows any.
    """
    for row, allowed in enumerate(choices):
        if allowed is not None:
            ids = torch.tensor(sorted(allowed), device=logits.device)
            kept = logits[row, ids]
            logits[row] = -torch.inf
            logits[row, ids] = kept


def _inverse_cdf(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first token whose cumulative weight exceeds `uniform * total`, and the total.

    Both have shape (B,). A token of weight 0 is never returned. Weights are summed in float64 in
    two levels, blocks and then tokens of a block: cheaper than a cumulative sum of the whole
    vocabulary, and float32 would lose the tail.
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
    """Return the index of the first cumulative weight above the target (B, 1).

    Also returns the target minus the weight before that index.
    """
    cumulated = weights.cumsum(1)
    # Rounding can put the target at the very end. Then return the last index with a weight.
    target = torch.minimum(target, cumulated[:, -1:].mul(1 - 1e-15))
    index = torch.searchsorted(cumulated, target, right=True).clamp_(max=weights.shape[1] - 1)
    return index.squeeze(1), (target - (cumulated - weights).gather(1, index)).clamp_(min=0)
