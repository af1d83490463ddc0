"""Frozen linear layers for a CPU that decodes: weights in the order in which oneDNN reads them.

A product of few rows with a plain weight spends much of its time putting the weight into another order. Done once a refresh
of the sampler instead of once a token, 16 rows take a third less time and 3 rows half; 600 rows take a tenth more (2 cores with
AVX2, 576 x 1536). `benchmarks/engine.py` measures the whole.

The two operations are those that torch's own compiler calls for frozen weights. Where a build of torch lacks them, and for
anything but float32 on a CPU, layers stay plain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 16
"""What the order is made for. Other numbers of rows use the same one; none was slower for it."""


class PackedLinear(nn.Module):
    """Computes what a linear layer computes, with a packed copy of its weight or of another one of its shape.

    Args:
        layer: whose weight `can_pack`; weight and bias are shared with it.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self._packed: Tensor | None = None
        self._is_own = False

    @torch.no_grad()
    def pack(self, other: Tensor | None = None) -> None:
        """Computes from now on with a copy of the `other` weight; None: of its own."""
        if other is None and self._is_own:
            return
        self._packed = None  # so that there are never two
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            self.weight if other is None else other, ROWS
        )
        self._is_own = other is None

    def unpack(self) -> None:
        """Computes from now on with its own weight as it lies there, and keeps no copy."""
        self._packed = None
        self._is_own = False

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None or not x.numel():
            return linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """Whether this machine and this build of torch can compute with a packed copy of the weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_reorder_linear_weight", "_linear_pointwise")
        )
    )
