"""Losses as pure functions of tensors, one file a loss, all of one shape: (tokens...) -> LossOutput.

A loss sums over the tokens it is given and divides by a denominator that belongs to the whole optimiser step. So the
parts of a step add up to the same loss and gradient however the step was cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """One micro-batch's share of a step's loss, and what is worth logging about it."""

    loss: Tensor
    """() with gradient; shares of one step add up to the step's loss."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Name -> () sum over tokens; add over the step's micro-batches, then divide by the step's number of tokens."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Name -> () largest value of any token."""
