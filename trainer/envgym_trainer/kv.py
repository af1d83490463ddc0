"""Keys and values of many rows, one preallocated tensor a layer that grows on demand.

A row is a dialogue's own tokens or a segment that several dialogues share. What lies beyond a row's length is stale but
finite, so a mask is enough to leave it out.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Storage for `rows` sequences in every layer.

    Attributes:
        keys, values: one (rows, heads, capacity, dim) tensor a layer.
    """

    def __init__(self, *, layers: int, rows: int, heads: int, dim: int, dtype: torch.dtype, device: torch.device):
        def empty() -> list[Tensor]:
            return [torch.zeros(rows, heads, 0, dim, dtype=dtype, device=device) for _ in range(layers)]

        self.keys, self.values = empty(), empty()

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys[0].shape[2]

    def grow(self, needed: int) -> None:
        """Makes room for `needed` tokens a row, at least doubling, so that copying stays rare."""
        if needed <= self.capacity:
            return
        room = max(needed, 2 * self.capacity, 64)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                rows, heads, length, dim = old.shape
                # Zeros, not empty: a stale NaN would survive a mask (0 * NaN). On a CPU untouched pages cost nothing.
                new = old.new_zeros(rows, heads, room, dim)
                new[:, :, :length] = old
                tensors[layer] = new

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies the tokens from `start` to `stop` of one row to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, start:stop] = tensor[source, :, start:stop]
