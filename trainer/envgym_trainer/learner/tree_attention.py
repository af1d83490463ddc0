"""Attention over a prefix tree in blocks, as an attention function of transformers.

A full mask of S tree tokens has shape (S, S) and is mostly False, because branches do not see each
other. Here a block of adjacent tokens reads only the keys that some of them see: the open branch
above the block and the block itself. Work grows with S times the depth of the tree.
Not supported: soft caps, sinks, and sliding windows shorter than the conversation. These raise an
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from envgym.errors import UsageError

NAME = "envgym_tree"
"""Name of this attention in transformers. No mask function has it, so the model builds no mask."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Adjacent tokens of the row and the keys that they see."""

    start: int
    end: int
    keys: Tensor
    """Positions in the row that at least one token of the block sees, shape (K,), int64."""
    mask: Tensor
    """Attention mask, shape (end - start, K). True if the token sees the key."""


def attention_blocks(subtree_end: Tensor, *, size: int) -> list[AttentionBlock]:
    """Split a depth-first row into blocks.

    Args:
        subtree_end: Position after the last descendant of each token, shape (S,). k is q or an
            ancestor of q if and only if k <= q < subtree_end[k].
        size: Number of tokens of a block. Small blocks waste less work, large blocks need fewer
            calls.
    """
    places = torch.arange(len(subtree_end), device=subtree_end.device)
    blocks = []
    for rows in places.split(size):
        start = int(rows[0])
        end = int(rows[-1]) + 1
        # Tokens whose subtree is open at the start of the block, or that are inside it.
        keys = places[:end][subtree_end[:end] > start]
        mask = (keys <= rows[:, None]) & (rows[:, None] < subtree_end[keys])
        blocks.append(AttentionBlock(start, end, keys, mask))
    return blocks


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    envgym_blocks: Sequence[AttentionBlock] = (),
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention of each token over its ancestors and itself.

    The signature is the one of transformers' `ALL_ATTENTION_FUNCTIONS`.

    Args:
        module: Attention module of the model.
        query: Queries, shape (1, H, S, D).
        key: Keys, shape (1, K, S, D). K divides H.
        value: Values, shape (1, K, S, D).
        envgym_blocks: Blocks of the row, in order.

    Returns:
        Attention output, shape (1, S, H, D), and None.

    Raises:
        UsageError: If the attention has a feature that a prefix tree does not support.
    """
    window = options.get("sliding_window")
    if window and max(int(block.mask.sum(dim=1).max()) for block in envgym_blocks) <= window:
        # A window that is wider than the longest conversation has no effect.
        window = None
    if window or options.get("softcap") is not None or options.get("s_aux") is not None:
        raise UsageError(
            f"{type(module).__name__} uses soft caps, sinks or a window of {window} tokens, which "
            "the prefix tree does not support. Train it on padded rows: "
            "Learner(..., layout='flat')."
        )
    # On CUDA, a mask with grouped heads falls back to the slow kernel. Repeating the heads does
    # not.
    repeats = query.shape[1] // key.shape[1] if query.is_cuda else 1
    parts = []
    for block in envgym_blocks:
        keys, values = (
            whole.index_select(2, block.keys).repeat_interleave(repeats, dim=1)
            for whole in (key, value)
        )
        parts.append(
            scaled_dot_product_attention(
                query[:, :, block.start : block.end],
                keys,
                values,
                attn_mask=block.mask,
                scale=scaling,
                enable_gqa=repeats == 1,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
