"""Controllers that adapt a setting to a measurement, with a state that is saved in checkpoints.

    kl             kl_coef from KL(policy || base)        arXiv 1909.08593, section 2.2
    learning_rate  learning rate from the KL of a step    TRPO, arXiv 1502.05477, appendix C
    entropy        entropy bonus from the entropy         SAC, arXiv 1812.05905, section 5
    max_kl         no update of a step beyond this KL     Spinning Up's PPO; without state

All measurements are means over sampled tokens, in nats. See `learner.py` for the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from envgym_trainer.config.controllers import (
    ControllersConfig,
    EntropyControl,
    KLControl,
    LearningRateControl,
)


class Controlled(Protocol):
    """Settings of the learner that controllers change."""

    updates: int
    warmup_steps: int
    learning_rate: float
    kl_coef: float
    entropy_coef: float
    max_kl: float | None

    def step_kl(self, samples: Sequence[Any]) -> float: ...


class AdaptiveKL:
    """Controller that raises kl_coef while the KL is above its target, and lowers it below.

        error = clip(kl / target - 1, -0.2, 0.2);  coef = coef * (1 + gain * error)

    Args:
        config: Target in nats per token, and gain per step (K_beta, 0.1 in the paper).
        coef: Initial value, above 0, because the controller multiplies.

    References:
        Ziegler et al. 2019, arXiv 1909.08593, section 2.2. Their KL is per answer, ours per token.
    """

    def __init__(self, config: KLControl, coef: float):
        if coef <= 0:
            raise ValueError(
                f"coef is {coef}, but a controller that multiplies never leaves 0. Set it above 0."
            )
        self.config = config
        self.value = coef

    def update(self, measured: float) -> float:
        """Return the next step's coefficient from this step's mean `kl` (nats per token)."""
        error = min(0.2, max(-0.2, measured / self.config.target - 1))
        self.value *= 1 + self.config.gain * error
        return self.value


class AdaptiveLearningRate:
    """Controller of the learning rate that keeps the KL of a step at its target.

        rate = clip(rate * clip(exp(gain * (1 - kl / target)), 1 / 1.5, 1.5), lowest, highest)

    The KL of a small step grows with the square of its length, so a gain of 1/2 is TRPO's step near
    the target, sqrt(target / kl) times the last one (arXiv 1502.05477, appendix C). A smaller gain
    averages over noise. The error uses the KL, not its log, so the mean of noisy steps reaches the
    target. The bound of the factor is from adaptive PPO (Rudin et al. 2021, arXiv 2109.11978).

    Args:
        config: Target in nats per token for a whole step, gain, lowest and highest rate.
        rate: Initial value. It is clipped to the bounds.
    """

    def __init__(self, config: LearningRateControl, rate: float):
        self.config, self.value = config, min(config.max, max(config.min, rate))

    def update(self, measured: float) -> float:
        """Return the next step's rate from the KL of this step (nats per token)."""
        config = self.config
        factor = math.exp(
            max(-math.log(1.5), min(math.log(1.5), config.gain * (1 - measured / config.target)))
        )
        self.value = min(config.max, max(config.min, self.value * factor))
        return self.value


class AdaptiveEntropy:
    """Controller of the entropy bonus that keeps the policy's entropy at its target.

        error = clip(1 - entropy / target, -1, 1);  integral += gain * error
        coef  = clip(exp(integral + proportional * error), lowest, highest)

    The integral is SAC's temperature: gradient descent on the dual of "entropy >= target", in log
    space as in the authors' code (Haarnoja et al. 2018, arXiv 1812.05905, section 5, eq. 18). Alone
    it oscillates, because the entropy reacts late. The proportional term damps it (Stooke et al.
    2020, arXiv 2007.03964, section 4). The integral stops at the bounds (anti-windup).

    Args:
        config: Target in nats per token, gain and proportional gain per step, lowest and highest
            coefficient.
        coef: Initial value. It is clipped to the bounds.
    """

    def __init__(self, config: EntropyControl, coef: float):
        self.config, self.value = config, min(config.max, max(config.min, coef))
        self.integral = math.log(self.value)

    def update(self, measured: float) -> float:
        """Return the next step's coefficient from this step's mean `entropy` (nats per token)."""
        config = self.config
        low = math.log(config.min)
        high = math.log(config.max)
        error = min(1.0, max(-1.0, 1 - measured / config.target))
        self.integral = min(high, max(low, self.integral + config.gain * error))
        self.value = math.exp(min(high, max(low, self.integral + config.proportional_gain * error)))
        return self.value


def updates_until_stopped(
    step: Callable[[Any], dict[str, float]], shares: Sequence[Any]
) -> list[dict[str, float]]:
    """Return the metrics of one update for each share, up to the one skipped because of max_kl.

    As Spinning Up's `target_kl`, but checked before the update, as in Stable-Baselines3.
    """
    rounds: list[dict[str, float]] = []
    for share in shares:
        rounds.append(step(share))
        if rounds[-1].get("controller/stopped"):
            break
    return rounds


def _follow(
    controller: AdaptiveKL | AdaptiveLearningRate | AdaptiveEntropy, measured: float
) -> float:
    return controller.update(measured) if math.isfinite(measured) else controller.value


class Controllers:
    """All controllers of a run. Their state is saved in its checkpoints.

    Args:
        config: `train.controllers`. A controller without an entry is off.
        learning_rate: Initial learning rate.
        kl_coef: Initial KL coefficient.
        entropy_coef: Initial entropy coefficient.
    """

    def __init__(
        self,
        config: ControllersConfig,
        *,
        learning_rate: float,
        kl_coef: float,
        entropy_coef: float,
        max_kl: float | None = None,
    ):
        self.max_kl = max_kl
        self.kl = AdaptiveKL(config.kl, kl_coef) if config.kl else None
        self.learning_rate = (
            AdaptiveLearningRate(config.learning_rate, learning_rate)
            if config.learning_rate
            else None
        )
        self.entropy = AdaptiveEntropy(config.entropy, entropy_coef) if config.entropy else None

    def attach(self, learner: Controlled) -> None:
        """Set the learner to the current values of the controllers."""
        learner.max_kl = self.max_kl
        if self.kl:
            learner.kl_coef = self.kl.value
        if self.learning_rate:
            learner.learning_rate = self.learning_rate.value
        if self.entropy:
            learner.entropy_coef = self.entropy.value

    def update(
        self, learner: Controlled, metrics: Mapping[str, float], samples: Sequence[Any]
    ) -> dict[str, float]:
        """Update each controller after a step, and set the learner for the next step.

        A controller is unchanged if its measurement is missing or not finite (no update was made).
        The learning rate is unchanged during the learner's warm-up.

        Args:
            learner: Learner to measure and to set.
            metrics: Metrics of the step.
            samples: All samples of the step. The step's KL costs one forward pass over them.

        Returns:
            `controller/...`: values for the next step, and the step's KL if it was measured.
        """
        out: dict[str, float] = {}
        if self.kl:
            out["controller/kl_coef"] = _follow(self.kl, metrics.get("kl", math.nan))
        if self.entropy:
            out["controller/entropy_coef"] = _follow(self.entropy, metrics.get("entropy", math.nan))
        if self.learning_rate:
            # Without an update the policy did not change.
            moved = learner.step_kl(samples) if metrics.get("grad_norm") else math.nan
            out |= {"controller/step_kl": moved} if math.isfinite(moved) else {}
            out["controller/learning_rate"] = _follow(
                self.learning_rate, moved if learner.updates >= learner.warmup_steps else math.nan
            )
        self.attach(learner)
        return out

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self.kl:
            state["kl"] = self.kl.value
        if self.learning_rate:
            state["learning_rate"] = self.learning_rate.value
        if self.entropy:
            state["entropy"] = [self.entropy.value, self.entropy.integral]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. A controller without a saved state starts from its settings."""
        if self.kl and "kl" in state:
            self.kl.value = state["kl"]
        if self.learning_rate and "learning_rate" in state:
            self.learning_rate.value = state["learning_rate"]
        if self.entropy and "entropy" in state:
            self.entropy.value, self.entropy.integral = state["entropy"]
