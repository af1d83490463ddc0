"""Frozen linear layers for decoding on a CPU, with weights packed in oneDNN's memory layout.

With a plain weight, a product of few rows spends much of its time reordering the weight. Packing
once per sampler refresh instead makes 16 rows a third faster, 3 rows twice as fast and 600 rows a
tenth slower (2 cores with AVX2, 576 x 1536); see `benchmarks/engine.py`. The two operations are the
ones that torch's compiler uses for frozen weights. If the torch build lacks them, or for anything
but float32 on a CPU, layers stay plain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 16
"""Number of rows that the layout is optimized for. Other numbers of rows were not slower."""


class PackedLinear(nn.Module):
    """Linear layer that computes with a packed copy of its weight or of another weight.

    Args:
        layer: Layer whose weight passes `can_pack`. Weight and bias are shared with it.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self._packed: Tensor | None = None
        self._is_own = False

    @torch.no_grad()
    def pack(self, other: Tensor | None = None) -> None:
        """Pack a copy of `other` and compute with it. By default, pack the layer's weight."""
        if other is None and self._is_own:
            return
        # Free the old copy first, so that there are never two.
        self._packed = None
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            self.weight if other is None else other, ROWS
        )
        self._is_own = other is None

    def unpack(self) -> None:
        """Free the packed copy and compute with the plain weight."""
        self._packed = None
        self._is_own = False

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None or not x.numel():
            return linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """Return whether this machine and torch build can compute with a packed copy of the weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_reorder_linear_weight", "_linear_pointwise")
        )
    )
