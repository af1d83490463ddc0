"""Advantages, one file each: `NAME.py` with a function `NAME` marked by `@advantage`.

An advantage is a pure function of the rewards of one step. `credit.py` builds its inputs and
assigns the result to the sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Generic, Literal, ParamSpec

from torch import Tensor

from envgym_trainer.config.options import Fraction, NonNegative, Positive

__all__ = [
    "Advantage",
    "AdvantageInputs",
    "Fraction",
    "NonNegative",
    "Positive",
    "advantage",
]

Options = ParamSpec("Options")
Baseline = Literal["group", "batch"]


@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """Rewards of one step: P groups of at most G episodes of at most K turns.

    All numbers are 0 if they are not valid.
    """

    rewards: Tensor
    """Rewards with the overlong penalty, shape (P, G), float."""
    valid: Tensor
    """False for void episodes and for the padding of small groups, shape (P, G), bool."""
    parts: Tensor
    """Value of each reward part, shape (M, P, G), float. The last part, of weight 1, is the rest of
    the reward that the other parts do not explain."""
    part_valid: Tensor
    """False if the part does not apply, shape (M, P, G), bool."""
    part_weights: Tensor
    """Weight of each part in the reward, shape (M,), float."""
    part_names: tuple[str, ...]
    """Names of the parts, length M."""
    turn_rewards: Tensor
    """Reward of each turn, shape (P, G, K), float. The last turn has the overlong penalty too."""
    turn_valid: Tensor
    """False for missing turns and void episodes, shape (P, G, K), bool."""
    invalid_calls: Tensor
    """Number of refused or unreadable tool calls of each turn, shape (P, G, K), int64."""
    states: Tensor
    """Number of the conversation before each turn, shape (P, G, K), int64; -1 if not valid. Turns
    with equal numbers belong to one group and have the same conversation so far."""
    observations: Tensor
    """As `states`, but equal numbers mean the same last observation only."""


@dataclass(frozen=True, slots=True)
class Advantage(Generic[Options]):
    """Advantage function with the properties that the attribution needs."""

    function: Callable[Concatenate[AdvantageInputs, Options], Tensor]
    baseline: Baseline
    is_linear: bool
    linear_part: Callable[..., Tensor] | None
    part_shares: Callable[..., Tensor] | None

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(
        self, inputs: AdvantageInputs, *args: Options.args, **options: Options.kwargs
    ) -> Tensor:
        return self.function(inputs, *args, **options)


def advantage(
    *,
    baseline: Baseline,
    is_linear: bool,
    linear_part: Callable[..., Tensor] | None = None,
    part_shares: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[Concatenate[AdvantageInputs, Options], Tensor]], Advantage[Options]]:
    """Mark a function of `AdvantageInputs` and keyword-only options as an advantage.

    The function returns one number for each episode, shape (P, G), or for each turn, shape (P, G,
    K). Values that are not valid are ignored. If it divides by a standard deviation that can be
    chosen, the option is called `std` and its value `none` divides by nothing.

    Args:
        baseline: Episodes with which a reward is compared: those of its group or of the batch.
        is_linear: Whether the advantage is the distance of a reward to its baseline, divided by one
            number for each group or batch. Then the attribution takes it apart exactly. If not, the
            attribution reports a `rest`.
        linear_part: For an advantage that is not linear: function of the same arguments that
            returns the part of it that is, shape (P, G).
        part_shares: For an advantage that is not linear: function of the same arguments that
            returns the share of each reward part, shape (M, P, G).
    """

    def mark(
        function: Callable[Concatenate[AdvantageInputs, Options], Tensor],
    ) -> Advantage[Options]:
        return Advantage(function, baseline, is_linear, linear_part, part_shares)

    return mark
