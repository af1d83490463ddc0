"""The `train.controllers` block: settings that follow a measurement. All are off by default.

Importable without torch. See `envgym_trainer/controllers.py` for the control laws.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.errors import UsageError


class KLControl(Block):
    """Controller of `algorithm.kl.coef`, which must start above 0; it steers KL(policy || base)."""

    target: float = Field(gt=0)
    """Target of the metric `kl/current_base`. Nats a sampled token. Above 0."""
    gain: float = Field(default=0.1, gt=0, le=5)
    """Fraction of the relative error by which the coefficient changes each step. The error is
    limited to 20 %, so 0.1 changes it by at most 2 % a step. Above 0, at most 5."""


class LearningRateControl(Block):
    """Controller of `optimizer.learning_rate`; it steers how far a step moves the policy.

    It costs one forward pass a step.
    """

    target: float = Field(gt=0)
    """Target of the metric `controller/step_kl`: KL(before || after) of a whole step. Nats a
    sampled token. Above 0."""
    gain: float = Field(default=0.25, gt=0, le=0.5)
    """Gain on the relative error. Logarithm of the rate's growth factor, which is at most 1.5, at a
    measured KL of 0. Above 0, at most 0.5; a smaller gain averages over more steps."""
    min: float = Field(default=1e-6, gt=0)
    """Lower bound of the learning rate. Above 0."""
    max: float = Field(default=1e-3, gt=0)
    """Upper bound of the learning rate. At least `min`."""

    @model_validator(mode="after")
    def _ordered(self) -> LearningRateControl:
        return _in_order(self)


class EntropyControl(Block):
    """Controller of `algorithm.entropy_coef`; it keeps the entropy of sampled tokens at the target.

    If the entropy is above the target, the coefficient falls to its lower bound.
    """

    target: float = Field(gt=0)
    """Target of the metric `entropy`. Nats a sampled token. Above 0."""
    gain: float = Field(default=0.1, gt=0)
    """Integral gain. Logarithm of the coefficient's growth factor a step at an entropy of 0."""
    proportional_gain: float = Field(default=1.0, ge=0)
    """Proportional gain. Logarithm of the factor for the current error. At least 0; it damps
    oscillation."""
    min: float = Field(default=1e-5, gt=0)
    """Lower bound of the coefficient. Above 0."""
    max: float = Field(default=0.1, gt=0)
    """Upper bound of the coefficient. At least `min`."""

    @model_validator(mode="after")
    def _ordered(self) -> EntropyControl:
        return _in_order(self)


class ControllersConfig(Block):
    kl: KLControl | None = None
    learning_rate: LearningRateControl | None = None
    entropy: EntropyControl | None = None

    def check(self, *, kl_coef: float, learning_rate: float) -> None:
        """Check the controllers against the settings that they move.

        Raises:
            UsageError: If a controller starts outside of the range in which it can act.
        """
        if self.kl and not kl_coef:
            raise UsageError(
                "train.controllers.kl multiplies train.algorithm.kl.coef, which is 0 and would "
                "stay 0. Start it above 0, such as train.algorithm.kl.coef=0.01."
            )
        rate = self.learning_rate
        if rate and not rate.min <= learning_rate <= rate.max:
            raise UsageError(
                f"train.optimizer.learning_rate is {learning_rate:g}, outside of the bounds of "
                f"train.controllers.learning_rate: {rate.min:g} to {rate.max:g}. Change its min or "
                "max, or start within them."
            )


Bounded = TypeVar("Bounded", LearningRateControl, EntropyControl)


def _in_order(control: Bounded) -> Bounded:
    if control.min > control.max:
        raise ValueError(f"min is {control.min:g}, above max {control.max:g}")
    return control
