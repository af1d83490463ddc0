"""Attention over a prefix tree, block by block, plugged into transformers' own modules.

A row of S tree tokens would need an (S, S) mask of which most is False: branches do not see each other. Here a block of
neighbouring tokens looks only at the tokens that some of them may see, which in depth-first order are the open branch above
the block and the block itself. The work grows with S times the depth of the tree rather than with S squared.

Left out: soft caps, sinks, and sliding windows shorter than the conversation; a model that asks for them is refused.
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
"""Of this attention in transformers; it has no entry among the mask functions, so the model makes no mask of its own."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring tokens of the row and what they may look at."""

    start: int
    end: int
    keys: Tensor
    """(K,) int64 places in the row that at least one of the block's tokens sees."""
    mask: Tensor
    """(end - start, K) bool, True where a token may look."""


def attention_blocks(subtree_end: Tensor, *, size: int) -> list[Block]:
    """Cuts a depth-first row into blocks.

    Args:
        subtree_end: (S,) one past the last descendant of each token: k is q itself or an ancestor of q exactly where
            k <= q < subtree_end[k].
        size: tokens of a block. Small ones waste less, big ones make fewer calls.
    """
    places = torch.arange(len(subtree_end), device=subtree_end.device)
    blocks = []
    for rows in places.split(size):
        start = int(rows[0])
        end = int(rows[-1]) + 1
        keys = places[:end][
            subtree_end[:end] > start
        ]  # still open when the block begins, or inside it
        mask = (keys <= rows[:, None]) & (rows[:, None] < subtree_end[keys])
        blocks.append(Block(start, end, keys, mask))
    return blocks


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    envgym_blocks: Sequence[Block] = (),
    **options: Any,
) -> tuple[Tensor, None]:
    """Each token over its ancestors and itself. Signature as in transformers' `ALL_ATTENTION_FUNCTIONS`.

    Args:
        query: (1, H, S, D); key, value: (1, K, S, D), K dividing H.
        envgym_blocks: the row's blocks, in order.
    Returns: (1, S, H, D) and None.
    Raises: UsageError for kinds of attention that a tree cannot serve.
    """
    window = options.get("sliding_window")
    if window and max(int(block.mask.sum(dim=1).max()) for block in envgym_blocks) <= window:
        window = None  # wider than the longest conversation: as good as none
    if window or options.get("softcap") is not None or options.get("s_aux") is not None:
        raise UsageError(
            f"{type(module).__name__} asks for soft caps, sinks or a window of {window} tokens, which the prefix tree does not "
            "know. Train it on padded rows: Learner(..., layout='flat')."
        )
    # On CUDA a mask together with grouped heads falls back to the slow kernel; repeating the heads does not.
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
