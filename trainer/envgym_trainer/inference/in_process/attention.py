"""Attention over preallocated keys and values, as a plug-in for transformers' attention modules.

One forward pass packs the new tokens of many rows as (1, N): first rows with several new tokens (a
prompt, an observation), then rows with one. Each row attends to its shared prefix and its own
tokens. The keys of a prefix are read once for all its rows and never copied. Not supported: windows
shorter than a dialogue, soft caps and sinks. Such models use `plain_passes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from envgym.errors import UsageError
from envgym_trainer.inference.in_process.kv_cache import KeyValues

NAME = "envgym_kv"


class UnknownAttention(UsageError):
    """Error for a model with an attention that is not implemented here."""


def why_unknown(config: Any, max_context: int) -> str | None:
    """Return the reason why this model's attention is not supported, or `None` if it is.

    Both the sampler's batches and the learner's prefix tree depend on this check.

    Args:
        config: Config of a causal language model of transformers.
        max_context: Tokens of the longest dialogue. A window of at least this size has no effect.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if strange := kinds - {"full_attention", "sliding_attention"}:
        return f"layers of kind {', '.join(sorted(strange))}"
    if not hasattr(config, "num_key_value_heads"):
        return "no number of key-value heads in its config"
    has_window = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    if has_window and (window := getattr(config, "sliding_window", None)) and window < max_context:
        return f"a window of {window} tokens in dialogues of up to {max_context}"
    rope = getattr(config, "rope_parameters", None) or {}
    for each in (
        rope.values() if any(isinstance(value, dict) for value in rope.values()) else [rope]
    ):
        if each.get("rope_type", "default") in (
            "dynamic",
            "longrope",
        ):  # stored keys would go stale
            return f"'{each['rope_type']}' positions, which change with the length"
    return None


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one row, n > 1."""

    start: int
    end: int
    """End in the packed tokens; n = end - start."""
    store: KeyValues
    row: int
    before: int
    """Tokens of this row that are already stored."""
    shared_row: int
    shared: int
    """Tokens of the shared prefix; 0 if this row is a shared prefix."""
    mask: Tensor | None
    """Shape (n, shared + before + n), bool, True if a token may attend; `None` means causal."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Shared prefixes of S rows, arranged as a grid of U prefixes by R rows each."""

    select: slice | Tensor
    """U rows of the shared store. A slice is a view, an index makes a copy."""
    length: int
    """Tokens of the longest prefix."""
    mask: Tensor
    """Shape (U, 1, 1, length), 0 or a very low number."""
    grid: Tensor
    """Row index of each cell, shape (U * R,). A prefix with fewer than R rows is padded."""
    cell: Tensor
    """Cell of each row, shape (S,). Ignored for rows that do not count."""
    alone: Tensor
    """Shape (S, 1, 1, 1), 0, or a very low number for a row without a prefix."""


@dataclass(frozen=True, slots=True)
class Singles:
    """All B rows with one new token, computed as S >= B rows if this saves a copy of keys."""

    start: int
    """Start in the packed tokens. The rows extend to the end."""
    rows: Tensor
    """Rows of the store, shape (B,)."""
    before: Tensor
    """Stored tokens of each row, shape (B,): position of the new token."""
    select: slice | Tensor
    """S rows of the store, as in `Segments`."""
    place: Tensor
    """Position of each row among the S rows, shape (B,)."""
    length: int
    """Tokens of the longest row, with the new token."""
    mask: Tensor
    """Shape (S, 1, 1, length), 0 or a very low number."""
    segments: Segments | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Assignment of the packed tokens of one forward pass to rows."""

    own: KeyValues
    shared: KeyValues
    spans: list[Span]
    singles: Singles | None
    longest: int
    """Tokens of the longest dialogue in the pass."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    envgym_layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Store the new keys and values, then compute attention.

    The signature is the one of transformers' `ALL_ATTENTION_FUNCTIONS`.

    Args:
        module: Attention module of the model.
        query: Shape (1, H, N, D).
        key: Shape (1, K, N, D). K divides H.
        value: Shape (1, K, N, D).
        attention_mask: Ignored; the layout has the masks.
        scaling: Factor of the scores; D ** -0.5 by default.
        envgym_layout: Layout of the packed tokens.

    Returns:
        Output of shape (1, N, H, D), and `None`.

    Raises:
        UnknownAttention: If the layer uses a soft cap, sinks or a window shorter than the dialogue.
    """
    window = options.get("sliding_window")
    is_cut = window is not None and envgym_layout is not None and envgym_layout.longest > window
    if (
        envgym_layout is None
        or is_cut
        or any(options.get(name) is not None for name in ("softcap", "s_aux"))
    ):
        raise UnknownAttention(
            f"{type(module).__name__}: soft caps, sinks, or a window shorter than the dialogue"
        )
    layer = module.layer_idx
    query = query[0] * (scaling if scaling is not None else query.shape[-1] ** -0.5)  # (H, N, D)
    out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])  # (N, H, D)
    for span in envgym_layout.spans:
        part = slice(span.start, span.end)
        out[part] = _span(
            layer, span, envgym_layout.shared, query[:, part], key[0, :, part], value[0, :, part]
        ).transpose(0, 1)
    if (singles := envgym_layout.singles) is not None:
        part = slice(singles.start, None)
        out[part] = _singles(
            layer, singles, envgym_layout, query[:, part], key[0, :, part], value[0, :, part]
        )
    return out.unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def _span(
    layer: int, span: Span, shared: KeyValues, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Return attention of one row's new tokens over prefix, stored and new tokens, (H, n, D)."""
    end = span.before + key.shape[1]
    parts = []
    for new, own, front in (
        (key, span.store.keys[layer], shared.keys[layer]),
        (value, span.store.values[layer], shared.values[layer]),
    ):
        own[span.row, :, span.before : end] = new
        mine = own[span.row, :, :end]
        parts.append(
            torch.cat([front[span.shared_row, :, : span.shared], mine], dim=1)
            if span.shared
            else mine
        )
    keys, values = (part.unsqueeze(0) for part in parts)
    return scaled_dot_product_attention(
        query.unsqueeze(0),
        keys,
        values,
        attn_mask=span.mask,
        is_causal=span.mask is None,
        scale=1.0,
        enable_gqa=True,
    )[0]


def _singles(
    layer: int, singles: Singles, layout: Layout, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Return attention of rows with one new token, shape (B, H, D).

    One softmax covers prefix and own tokens. It is combined from two parts.
    """
    keys = layout.own.keys[layer]
    values = layout.own.values[layer]
    keys[singles.rows, :, singles.before] = key.transpose(0, 1)
    values[singles.rows, :, singles.before] = value.transpose(0, 1)
    wide = query.new_zeros(len(singles.mask), query.shape[0], query.shape[2])  # (S, H, D)
    wide[singles.place] = query.transpose(0, 1)
    grouped = wide.unflatten(1, (keys.shape[1], -1))  # (S, K, H/K, D)
    select = (singles.select, slice(None), slice(singles.length))
    out, weight = _part(grouped, keys[select], values[select], singles.mask)
    if (segments := singles.segments) is not None:
        front, front_weight = _segment_part(
            grouped, segments, layout.shared.keys[layer], layout.shared.values[layer]
        )
        out = torch.lerp(out.float(), front.float(), torch.sigmoid(front_weight - weight)).to(
            out.dtype
        )
    return out.flatten(1, 2)[singles.place]


def _segment_part(
    query: Tensor, segments: Segments, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `_part` over the shared prefixes, in the order of the S rows of `query`.

    Each prefix is read once for its R rows.
    """
    group = query.shape[2]
    select = (segments.select, slice(None), slice(segments.length))
    grid = (
        query[segments.grid].unflatten(0, (len(segments.mask), -1)).transpose(1, 2).flatten(2, 3)
    )  # (U, K, R * H/K, D)
    out, weight = (
        part.unflatten(2, (-1, group))
        .transpose(1, 2)
        .flatten(0, 1)[segments.cell]  # (S, K, H/K, D or 1)
        for part in _part(grid, keys[select], values[select], segments.mask)
    )
    return out, weight + segments.alone


def _part(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention over a part of the keys, and the weight of that part in the whole softmax.

    Args:
        query: Scaled query, shape (n, K, m, D).
        keys: Shape (n, K, L, D).
        values: Shape (n, K, L, D).
        mask: Shape (n, 1, 1, L), added to the scores.

    Returns:
        Output, shape (n, K, m, D), and the log of the sum of exponentials, shape (n, K, m, 1),
        float32.
    """
    scores = (query @ keys.transpose(-1, -2)).float().add_(mask)
    top = scores.amax(-1, keepdim=True)
    scores.sub_(top).exp_()
    total = scores.sum(-1, keepdim=True)
    return (scores.to(values.dtype) @ values) / total.to(values.dtype), top + total.log()
