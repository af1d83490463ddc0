"""Losses as pure functions of tensors, one file a loss.

Each loss sums over its tokens and divides by a denominator of the whole optimizer step, so the
split into micro-batches changes neither loss nor gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Loss of one micro-batch, with metrics."""

    loss: Tensor
    """Scalar with gradient. The losses of all micro-batches add up to the step's loss."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Name -> scalar sum over tokens. Divide the step's sum by the step's number of tokens."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Name -> scalar maximum over tokens."""
