"""KV cache: keys and values of many rows, one tensor per layer, growing in rows and in tokens.

A row holds a dialogue's own tokens or a shared prefix. Values beyond a row's length are stale but
finite, so a mask is sufficient.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Storage of keys and values in every layer, initially empty.

    Args:
        layers: Number of layers.
        rows: Maximum number of rows.
        tokens: Maximum tokens of a row.
        heads: Number of key-value heads.
        dim: Size of a head.

    Attributes:
        keys: One tensor per layer, shape (current rows, heads, current tokens, dim).
        values: As `keys`.
    """

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        tokens: int,
        heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        def empty() -> list[Tensor]:
            return [
                torch.zeros(0, heads, 0, dim, dtype=dtype, device=device) for _ in range(layers)
            ]

        self._most_rows = rows
        self._most_tokens = tokens
        self.keys, self.values = empty(), empty()

    def reserve(self, rows: int, tokens: int) -> None:
        """Grow to at least this many rows and tokens.

        The size at least doubles, so copies are rare.
        """
        held_rows, _, held_tokens, _ = self.keys[0].shape
        rows = _enough(rows, held_rows, at_least=8, at_most=self._most_rows)
        tokens = _enough(tokens, held_tokens, at_least=64, at_most=self._most_tokens)
        if (rows, tokens) == (held_rows, held_tokens):
            return
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                # Zeros, not empty: a stale NaN would survive a mask (0 * NaN). On a CPU, pages
                # that are not touched use no memory.
                new = old.new_zeros(rows, old.shape[1], tokens, old.shape[3])
                new[:held_rows, :, :held_tokens] = old
                tensors[layer] = new

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy the tokens from `start` to `stop` of one row to another."""
        self.reserve(target + 1, stop)
        for tensor in (*self.keys, *self.values):
            tensor[target, :, start:stop] = tensor[source, :, start:stop]


def _enough(needed: int, held: int, *, at_least: int, at_most: int) -> int:
    """Return the new capacity if `needed` is requested. It never shrinks."""
    return held if needed <= held else max(needed, min(max(2 * held, at_least), at_most))
