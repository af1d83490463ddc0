"""Controllers: settings that follow a measurement, each a few lines of plain Python with a state that a checkpoint holds.

    kl             kl_coef follows KL(policy || base)                          Ziegler et al., arXiv 1909.08593, sec. 2.2
    learning_rate  the learning rate follows KL(before || after) of a step     TRPO, arXiv 1502.05477, app. C
    entropy        the entropy bonus follows the entropy of what is sampled    SAC, arXiv 1812.05905, sec. 5
    max_kl         no further update of a step once the policy went that far   Spinning Up's PPO; a rule without state

All measurements are means over sampled tokens, in nats. `Controls` is what the trainer speaks to. Left out: measuring
(`learner.py`).
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
    """What controllers turn: the learner."""

    updates: int
    warmup_steps: int
    learning_rate: float
    kl_coef: float
    entropy_coef: float
    max_kl: float | None

    def step_kl(self, samples: Sequence[Any]) -> float: ...


class AdaptiveKL:
    """kl_coef grows while the policy is further from its base than wanted, and shrinks while it is nearer.

        error = clip(kl / target - 1, -0.2, 0.2);  coef = coef * (1 + gain * error)

    Args:
        config: target in nats a token, gain a step (K_beta, 0.1 in the paper).
        coef: to begin with, above 0; a product never leaves 0.
    Source: Ziegler et al. 2019, arXiv 1909.08593, sec. 2.2, whose KL is of a whole answer where ours is of a token.
    """

    def __init__(self, config: KLControl, coef: float):
        if coef <= 0:
            raise ValueError(
                f"coef is {coef}: a controller that multiplies never leaves 0. Start above it."
            )
        self.config = config
        self.value = coef

    def update(self, measured: float) -> float:
        """The coefficient of the next step, from the mean `kl` (nats a token) of this one."""
        error = min(0.2, max(-0.2, measured / self.config.target - 1))
        self.value *= 1 + self.config.gain * error
        return self.value


class AdaptiveLearningRate:
    """The rate at which a step moves the policy as far as wanted.

        rate = clip(rate * clip(exp(gain * (1 - kl / target)), 1 / 1.5, 1.5), lowest, highest)

    A small step's KL grows with the square of its length, so near the target gain 1/2 is TRPO's step, sqrt(target / kl) times
    the last (arXiv 1502.05477, app. C); a smaller gain averages over noise. The error is that of the KL and not of its log: so
    it is the mean of noisy steps that comes to the target. The factor's bound is adaptive PPO's (Rudin et al. 2021, 2109.11978).

    Args:
        config: target in nats a token of one whole step, gain, lowest and highest rate.
        rate: to begin with; held within the bounds.
    """

    def __init__(self, config: LearningRateControl, rate: float):
        self.config, self.value = config, min(config.highest, max(config.lowest, rate))

    def update(self, measured: float) -> float:
        """The rate of the next step, from the KL (nats a token) by which this one moved the policy."""
        config = self.config
        factor = math.exp(
            max(-math.log(1.5), min(math.log(1.5), config.gain * (1 - measured / config.target)))
        )
        self.value = min(config.highest, max(config.lowest, self.value * factor))
        return self.value


class EntropyTarget:
    """The weight of the entropy bonus that keeps the policy as undecided as wanted.

        error = clip(1 - entropy / target, -1, 1);  integral += gain * error
        coef  = clip(exp(integral + proportional * error), lowest, highest)

    The integral is SAC's temperature (gradient descent on the dual of "entropy >= target", its log as in the authors' code;
    Haarnoja et al. 2018, arXiv 1812.05905, sec. 5, eq. 18). Alone it swings around its target, because the entropy itself
    answers late; the proportional term damps it (Stooke et al. 2020, arXiv 2007.03964, sec. 4). The integral stops at the
    bounds, so that time spent there need not be made good.

    Args:
        config: target in nats a token, gain and proportional a step, lowest and highest coefficient.
        coef: to begin with; held within the bounds.
    """

    def __init__(self, config: EntropyControl, coef: float):
        self.config, self.value = config, min(config.highest, max(config.lowest, coef))
        self.integral = math.log(self.value)

    def update(self, measured: float) -> float:
        """The coefficient of the next step, from the mean `entropy` (nats a token) of this one."""
        config = self.config
        low = math.log(config.lowest)
        high = math.log(config.highest)
        error = min(1.0, max(-1.0, 1 - measured / config.target))
        self.integral = min(high, max(low, self.integral + config.gain * error))
        self.value = math.exp(min(high, max(low, self.integral + config.proportional * error)))
        return self.value


def updates_until_stopped(
    step: Callable[[Any], dict[str, float]], shares: Sequence[Any]
) -> list[dict[str, float]]:
    """Metrics of one update a share, up to the one that the learner left out because the policy had gone too far.

    The rule of Spinning Up's PPO (`target_kl`) with the check before the update, as in Stable-Baselines3.
    """
    rounds: list[dict[str, float]] = []
    for share in shares:
        rounds.append(step(share))
        if rounds[-1].get("controller/stopped"):
            break
    return rounds


def _follow(
    controller: AdaptiveKL | AdaptiveLearningRate | EntropyTarget, measured: float
) -> float:
    return controller.update(measured) if math.isfinite(measured) else controller.value


class Controls:
    """All controllers of a run, between its metrics and its learner. A part of its checkpoint.

    Args:
        config: `train.controllers`; a controller that is not named does nothing.
        learning_rate, kl_coef, entropy_coef: what the run starts with.
    """

    def __init__(
        self,
        config: ControllersConfig,
        *,
        learning_rate: float,
        kl_coef: float,
        entropy_coef: float,
    ):
        self.max_kl = config.max_kl
        self.kl = AdaptiveKL(config.kl, kl_coef) if config.kl else None
        self.learning_rate = (
            AdaptiveLearningRate(config.learning_rate, learning_rate)
            if config.learning_rate
            else None
        )
        self.entropy = EntropyTarget(config.entropy, entropy_coef) if config.entropy else None

    def attach(self, learner: Controlled) -> None:
        """Sets the learner to what the controllers say now."""
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
        """Lets each controller answer to a step, and sets the learner for the next one.

        A measurement that is absent or not finite (nothing was learned from) leaves its controller as it is, and so does the
        learner's own warm-up the learning rate.

        Args:
            metrics: of the step. samples: all of them, for the KL of the step, which costs a forward pass.
        Returns: `controller/...`: what each set for the next step, and the step's KL where it was measured.
        """
        out: dict[str, float] = {}
        if self.kl:
            out["controller/kl_coef"] = _follow(self.kl, metrics.get("kl", math.nan))
        if self.entropy:
            out["controller/entropy_coef"] = _follow(self.entropy, metrics.get("entropy", math.nan))
        if self.learning_rate:
            moved = (
                learner.step_kl(samples) if metrics.get("grad_norm") else math.nan
            )  # without an update nothing moved
            out |= {"controller/step_kl": moved} if math.isfinite(moved) else {}
            out["controller/learning_rate"] = _follow(
                self.learning_rate, moved if learner.updates >= learner.warmup_steps else math.nan
            )
        self.attach(learner)
        return out

    def state_dict(self) -> dict[str, Any]:
        """All numbers that the controllers have come to."""
        state: dict[str, Any] = {}
        if self.kl:
            state["kl"] = self.kl.value
        if self.learning_rate:
            state["learning_rate"] = self.learning_rate.value
        if self.entropy:
            state["entropy"] = [self.entropy.value, self.entropy.integral]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken; a controller that was not there then starts from its settings."""
        if self.kl and "kl" in state:
            self.kl.value = state["kl"]
        if self.learning_rate and "learning_rate" in state:
            self.learning_rate.value = state["learning_rate"]
        if self.entropy and "entropy" in state:
            self.entropy.value, self.entropy.integral = state["entropy"]
