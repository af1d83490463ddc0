"""Controller of the entropy bonus."""

from __future__ import annotations

import math
from collections.abc import Mapping

from envgym_trainer.config.controllers import EntropyControl
from envgym_trainer.learner.controllers import Controller


class AdaptiveEntropy(Controller):
    """Controller of the entropy bonus that keeps the policy's entropy at its target.

        error = clip(1 - entropy / target, -1, 1);  integral += gain * error
        coef  = clip(exp(integral + proportional_gain * error), min, max)

    The integral is SAC's temperature: gradient descent on the dual of "entropy >= target", in log
    space as in the authors' code (Haarnoja et al. 2018, arXiv 1812.05905, section 5, eq. 18). Alone
    it oscillates, because the entropy reacts late. The proportional term damps it (Stooke et al.
    2020, arXiv 2007.03964, section 4). The integral stops at the bounds (anti-windup).

    Args:
        options: Target in nats per token, gain and proportional gain per step, minimum and maximum
            coefficient.
        start: Initial coefficient. It is clipped to the bounds.
    """

    setting = "entropy_coef"
    metric = "entropy"
    options: EntropyControl

    def __init__(self, options: EntropyControl, start: float):
        super().__init__(options, min(options.max, max(options.min, start)))
        self.integral = math.log(self.value)

    def update(self, metrics: Mapping[str, float]) -> None:
        options = self.options
        low = math.log(options.min)
        high = math.log(options.max)
        error = min(1.0, max(-1.0, 1 - metrics[self.metric] / options.target))
        self.integral = min(high, max(low, self.integral + options.gain * error))
        exponent = self.integral + options.proportional_gain * error
        self.value = math.exp(min(high, max(low, exponent)))

    def state_dict(self) -> dict[str, float]:
        return super().state_dict() | {"integral": self.integral}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        super().load_state_dict(state)
        self.integral = state["integral"]
