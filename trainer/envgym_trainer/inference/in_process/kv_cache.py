"""Keys and values of many rows, one tensor a layer that grows on demand, in rows and in tokens.

A row is a dialogue's own tokens or a segment that several dialogues share. What lies beyond a row's length is stale but
finite, so a mask is enough to leave it out.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Storage for sequences in every layer, at first for none.

    Args:
        rows: no more than these are ever held; tokens: of a row, likewise.

    Attributes:
        keys, values: one (rows so far, heads, tokens so far, dim) tensor a layer.
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
        """Makes room for so many rows of so many tokens; what is too small at least doubles, so that copying stays rare."""
        held_rows, _, held_tokens, _ = self.keys[0].shape
        rows = _enough(rows, held_rows, at_least=8, at_most=self._most_rows)
        tokens = _enough(tokens, held_tokens, at_least=64, at_most=self._most_tokens)
        if (rows, tokens) == (held_rows, held_tokens):
            return
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                # Zeros, not empty: a stale NaN would survive a mask (0 * NaN). On a CPU untouched pages cost nothing.
                new = old.new_zeros(rows, old.shape[1], tokens, old.shape[3])
                new[:held_rows, :, :held_tokens] = old
                tensors[layer] = new

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies the tokens from `start` to `stop` of one row to another."""
        self.reserve(target + 1, stop)
        for tensor in (*self.keys, *self.values):
            tensor[target, :, start:stop] = tensor[source, :, start:stop]


def _enough(needed: int, held: int, *, at_least: int, at_most: int) -> int:
    """What to hold where `needed` is asked for; never less than before."""
    return held if needed <= held else max(needed, min(max(2 * held, at_least), at_most))
