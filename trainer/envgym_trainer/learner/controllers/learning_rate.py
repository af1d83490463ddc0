"""Controller of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from envgym_trainer.config.controllers import LearningRateControl
from envgym_trainer.learner.controllers import STEP_KL, Controller


class AdaptiveLearningRate(Controller):
    """Controller of the learning rate that keeps the KL of a step at its target.

        rate = clip(rate * clip(exp(gain * (1 - kl / target)), 1 / 1.5, 1.5), min, max)

    The KL of a small step grows with the square of its length, so a gain of 1/2 is TRPO's step near
    the target, sqrt(target / kl) times the last one (arXiv 1502.05477, appendix C). A smaller gain
    averages over noise. The error uses the KL, not its log, so the mean of noisy steps reaches the
    target. The bound of the factor is from adaptive PPO (Rudin et al. 2021, arXiv 2109.11978).
    The rate is unchanged during the learner's warm-up, because smaller rates are applied then.

    Args:
        options: Target in nats per token for a whole step, gain, minimum and maximum rate.
        start: Initial rate. It is clipped to the bounds.
    """

    setting = "learning_rate"
    metric = STEP_KL
    skips_warm_up = True
    options: LearningRateControl

    def __init__(self, options: LearningRateControl, start: float):
        super().__init__(options, min(options.max, max(options.min, start)))

    def update(self, metrics: Mapping[str, float]) -> None:
        options = self.options
        exponent = options.gain * (1 - metrics[self.metric] / options.target)
        factor = math.exp(max(-math.log(1.5), min(math.log(1.5), exponent)))
        self.value = min(options.max, max(options.min, self.value * factor))
