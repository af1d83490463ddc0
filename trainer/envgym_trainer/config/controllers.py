"""The `train.controllers` block: which settings follow a measurement. All of it is off by default."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.errors import UsageError


class KLControl(Block):
    """Moves kl_coef, which must start above 0, so that KL(policy || base) comes to the target."""

    target: float = Field(gt=0)
    """Nats a sampled token, as the metric `kl`."""
    gain: float = Field(default=0.1, gt=0, le=5)
    """Share of the relative error, itself held within 20 %, by which kl_coef changes each step: 0.1 is at most 2 % a step."""


class LearningRateControl(Block):
    """Moves the learning rate so that each step moves the policy by the target; costs a forward pass a step."""

    target: float = Field(gt=0)
    """Nats a sampled token, KL(before || after) of a whole step, as the metric `controller/step_kl`."""
    gain: float = Field(default=0.25, gt=0, le=0.5)
    """Log of the factor by which the rate grows where nothing moved, at most 1.5: 0.5 answers at once, less averages."""
    lowest: float = Field(default=1e-6, gt=0)
    highest: float = Field(default=1e-3, gt=0)
    """Bounds of the learning rate."""

    @model_validator(mode="after")
    def _ordered(self) -> LearningRateControl:
        return _in_order(self)


class EntropyControl(Block):
    """Moves entropy_coef so that the entropy of sampled tokens comes to the target, or stays above it at the lowest weight."""

    target: float = Field(gt=0)
    """Nats a sampled token, as the metric `entropy`."""
    gain: float = Field(default=0.1, gt=0)
    """Log of the factor by which the weight grows a step where all entropy is gone."""
    proportional: float = Field(default=1.0, ge=0)
    """Log of the factor that the error of the moment adds to that; damps swings."""
    lowest: float = Field(default=1e-5, gt=0)
    highest: float = Field(default=0.1, gt=0)
    """Bounds of entropy_coef."""

    @model_validator(mode="after")
    def _ordered(self) -> EntropyControl:
        return _in_order(self)


class ControllersConfig(Block):
    kl: KLControl | None = None
    learning_rate: LearningRateControl | None = None
    entropy: EntropyControl | None = None
    max_kl: float | None = Field(default=None, gt=0)
    """Nats a sampled token: once `approx_kl` of an update's own share is above, that update and the rest of its step are left
    out. Useful with several updates a step, whose later shares were sampled by an older policy."""

    def check(self, *, kl_coef: float, learning_rate: float, updates_per_step: int) -> None:
        """Raises UsageError where the run's other settings leave a controller nothing to move."""
        if self.kl and not kl_coef:
            raise UsageError(
                "train.controllers.kl multiplies train.kl_coef, which is 0 and would stay so. Start it above 0, such as "
                "train.kl_coef=0.01."
            )
        rate = self.learning_rate
        if rate and not rate.lowest <= learning_rate <= rate.highest:
            raise UsageError(
                f"train.learning_rate is {learning_rate:g}, outside of train.controllers.learning_rate: {rate.lowest:g} to "
                f"{rate.highest:g}. Change its lowest or highest, or start within them."
            )
        if self.max_kl and updates_per_step == 1:
            raise UsageError(
                "train.controllers.max_kl leaves out later updates of a step, but train.updates_per_step is 1. Raise that to 2 or "
                "more, or leave max_kl out; train.controllers.learning_rate holds the KL of a single update."
            )


def _in_order(control: Any) -> Any:
    if control.lowest > control.highest:
        raise ValueError(f"lowest is {control.lowest:g}, above highest {control.highest:g}")
    return control
