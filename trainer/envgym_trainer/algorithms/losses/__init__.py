"""Policy losses, one file each: `NAME.py` with a function `NAME` marked by `@loss`.

A loss returns the loss of each token. The KL penalty, the entropy bonus, the weights, the
denominator and the shared metrics are added by `objective.py`. `sft.py` is the supervised loss of
the warm start and has a contract of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Concatenate, Generic, ParamSpec

from torch import Tensor

from envgym_trainer.config.options import Fraction, NonNegative, Positive

__all__ = [
    "Fraction",
    "Loss",
    "LossInputs",
    "LossOutput",
    "NonNegative",
    "Positive",
    "TokenLosses",
    "loss",
]

Options = ParamSpec("Options")


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Trained tokens of one micro-batch: N tokens of B samples."""

    logprobs: Tensor
    """Logprobs under the current policy, shape (N,), with gradient."""
    old_logprobs: Tensor
    """Logprobs at sampling, shape (N,), or the trainer's own from before the first update if
    importance weights correct for the difference."""
    advantages: Tensor
    """Shape (N,)."""
    weights: Tensor
    """Weight of the sample times importance weight, shape (N,). Multiplied by `objective.py`."""
    samples: Tensor
    """Sample of each token, shape (N,), int64. Tokens of a sample are adjacent and in order."""
    denominator: float
    """Denominator of the whole optimizer step, never of this micro-batch. Applied by
    `objective.py`."""
    ref_logprobs: Tensor | None = None
    """Logprobs with the adapter off, shape (N,); `None` without a KL penalty."""


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Loss of each token, before weights and denominator."""

    values: Tensor
    """Shape (N,), with gradient."""
    ratio: Tensor | None = None
    """Importance ratio that the loss used, shape (N,), for the metrics. By default
    exp(logprobs - old_logprobs)."""
    low: Tensor | None = None
    """True if the lower clip is active, shape (N,), bool, for the metrics. By default never."""
    high: Tensor | None = None
    """True if the upper clip is active, shape (N,), bool, for the metrics. By default never."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """One micro-batch's share of a step's loss, with its metrics."""

    loss: Tensor
    """Scalar with gradient. The shares of one step add up to the step's loss."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum over tokens by metric. Add over the step's micro-batches, then divide by the step's
    number of tokens."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Largest value of any token by metric."""


@dataclass(frozen=True, slots=True)
class Loss(Generic[Options]):
    """Loss function with the properties that the trainer needs."""

    function: Callable[Concatenate[LossInputs, Options], TokenLosses]
    uses_ratio: bool
    needs_whole_samples: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(
        self, inputs: LossInputs, *args: Options.args, **options: Options.kwargs
    ) -> TokenLosses:
        return self.function(inputs, *args, **options)


def loss(
    *, uses_ratio: bool, needs_whole_samples: bool = False
) -> Callable[[Callable[Concatenate[LossInputs, Options], TokenLosses]], Loss[Options]]:
    """Mark a function of `LossInputs` and keyword-only options as a loss.

    Args:
        uses_ratio: Whether the loss depends on `old_logprobs`. If it does not, importance weights
            are taken to the current policy instead of the policy before the first update.
        needs_whole_samples: Whether all tokens of a sample must be in one call. If not, the loss of
            a token must depend on this token only.
    """

    def mark(function: Callable[Concatenate[LossInputs, Options], TokenLosses]) -> Loss[Options]:
        return Loss(function, uses_ratio, needs_whole_samples)

    return mark
