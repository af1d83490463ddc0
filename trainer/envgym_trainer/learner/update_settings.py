"""Settings of one update of the learner, as one immutable record."""

from __future__ import annotations

from dataclasses import dataclass

from envgym_trainer.config import TrainConfig


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """Numbers that one update uses. Controllers replace some of them from step to step."""

    learning_rate: float = 3e-4
    """Learning rate of AdamW after the learner's linear warm-up."""
    kl_coef: float = 0.0
    """Coefficient of the KL penalty. If it is 0, no reference logprobs are computed."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus. If it is 0, no gradient of the entropy is computed."""
    max_kl: float | None = None
    """Maximum KL between the sampling policy and the current one, in nats per token. If the
    samples of an update exceed it, the update is skipped. `None` never skips."""
    clip_low: float | None = 0.2
    """Lower clip range of the ratio; its meaning depends on the loss. `None` if the loss has no
    such option, or to use the algorithm's."""
    clip_high: float | None = 0.2
    """Upper clip range of the ratio, as `clip_low`."""
    temperature: float = 1.0
    """Temperature at which the samples were drawn. Logprobs are computed at this temperature."""

    @classmethod
    def from_config(cls, config: TrainConfig) -> UpdateSettings:
        """Return the settings at the start of a run."""
        return cls(
            learning_rate=config.optimizer.learning_rate,
            kl_coef=config.algorithm.kl.coef,
            entropy_coef=config.algorithm.entropy_coef,
            max_kl=config.optimizer.max_kl,
            clip_low=config.algorithm.loss.clip_low,
            clip_high=config.algorithm.loss.clip_high,
            temperature=config.rollout.temperature,
        )
