"""Controller of the KL coefficient."""

from __future__ import annotations

from collections.abc import Mapping

from envgym_trainer.config.controllers import KLControl
from envgym_trainer.learner.controllers import Controller


class AdaptiveKL(Controller):
    """Controller that raises kl_coef while the KL is above its target, and lowers it below.

        error = clip(kl / target - 1, -0.2, 0.2);  coef = coef * (1 + gain * error)

    Args:
        options: Target in nats per token, and gain per step (K_beta, 0.1 in the paper).
        start: Initial coefficient, above 0, because the controller multiplies.

    Raises:
        ValueError: If `start` is not above 0.

    References:
        Ziegler et al. 2019, arXiv 1909.08593, section 2.2. Their KL is per answer, ours per token.
    """

    setting = "kl_coef"
    metric = "kl/current_base"
    options: KLControl

    def __init__(self, options: KLControl, start: float):
        if start <= 0:
            raise ValueError(
                f"kl_coef is {start}, but a controller that multiplies never leaves 0. Set it "
                "above 0."
            )
        super().__init__(options, start)

    def update(self, metrics: Mapping[str, float]) -> None:
        error = min(0.2, max(-0.2, metrics[self.metric] / self.options.target - 1))
        self.value *= 1 + self.options.gain * error
