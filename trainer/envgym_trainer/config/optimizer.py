"""The `train.optimizer` and `train.warm_start` blocks: updates of the adapter."""

from __future__ import annotations

from pydantic import Field

from envgym.block import Block
from envgym.errors import UsageError


class OptimizerConfig(Block):
    """AdamW with a linear warm-up and a constant learning rate after it."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Learning rate of GRPO. Above 0."""
    warmup_updates: int = Field(default=4, ge=0)
    """Number of updates over which the learning rate rises from 0, in the warm start and again in
    GRPO. At least 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW. At least 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Norm to which the gradient is clipped. Above 0."""
    updates_per_step: int = Field(default=1, ge=1)
    """Number of updates a step, each on its own share of the step's groups. At least 1. More learn
    faster and are slightly off-policy."""
    epochs_per_step: int = Field(default=1, ge=1)
    """Number of passes over a step's groups. At least 1. From the second pass on the samples are
    off-policy; the clipped ratio allows for it and `off_policy/staleness_mean` measures it."""
    micro_batch_tokens: int = Field(default=4096, ge=64)
    """Size of one forward pass of the learner. Tokens. At least 64. It bounds memory and never
    changes the gradient."""
    max_kl: float | None = Field(default=None, gt=0)
    """Largest `kl/old_current` of an update's own share. Nats a sampled token. Above 0. If larger,
    this update and the rest of its step are skipped. Needs several updates a step, because only
    later shares come from an older policy. None: no limit."""

    def check(self) -> None:
        """Check the settings against each other.

        Raises:
            UsageError: If `max_kl` can never act.
        """
        if self.max_kl is not None and self.updates_per_step * self.epochs_per_step == 1:
            raise UsageError(
                "train.optimizer.max_kl skips later updates of a step, but there is only one. Set "
                "train.optimizer.updates_per_step to 2 or more, or leave max_kl out; "
                "train.controllers.learning_rate limits the KL of a single update."
            )


class WarmStartConfig(Block):
    """Supervised fine-tuning on episodes of the oracle, before GRPO. It trains the same adapter."""

    episodes: int = Field(default=0, ge=0)
    """Number of oracle episodes, each on a new task of the train split. At least 0; 0 skips the
    warm start."""
    episodes_per_step: int = Field(default=16, ge=1)
    """Number of oracle episodes of one update. At least 1."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Learning rate of the warm start. Above 0."""
