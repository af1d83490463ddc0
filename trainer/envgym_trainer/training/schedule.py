"""Steps of a run: which ones are supervised, saved, validated or prefetched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from envgym_trainer.config import TrainConfig
from envgym_trainer.config.evaluation import BASE, WARM


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of a run. They are counted from 1, warm start and GRPO together."""

    config: TrainConfig

    @property
    def warmup_steps(self) -> int:
        """Number of supervised steps before GRPO."""
        options = self.config.warm_start
        return math.ceil(options.episodes / options.episodes_per_step)

    @property
    def total_steps(self) -> int:
        return self.warmup_steps + self.config.steps

    def is_checkpoint_step(self, step: int) -> bool:
        """Return whether a checkpoint follows a GRPO step."""
        every = self.config.output.checkpoint_every_steps
        return step == self.total_steps or bool(every and self._done(step) % every == 0)

    def is_validation_step(self, step: int) -> bool:
        """Return whether a validation follows a step.

        The last step is evaluated anyway. It is validated only if the best adapter is exported, as
        are the base model (step 0) and the warm start, which no update may have improved.
        """
        every = self.config.evaluation.validate_every_steps
        if not every:
            return False
        if step in (0, self.warmup_steps, self.total_steps):
            return self.config.output.adapter == "best"
        return self._done(step) > 0 and self._done(step) % every == 0

    def name_of(self, step: int) -> str:
        """Return the name of the adapter after a step: base model, warm start or the step."""
        if step == 0:
            return BASE
        return WARM if step == self.warmup_steps else f"step {step}"

    def should_prefetch(self, step: int) -> bool:
        """Return whether to collect the next step's episodes during a step's update.

        Not before a checkpoint, because a resumed run samples again, and not before a validation,
        which needs the engine.
        """
        return (
            self.config.rollout.one_step_ahead
            and not self.is_checkpoint_step(step)
            and not self.is_validation_step(step)
        )

    def _done(self, step: int) -> int:
        """Return the number of GRPO steps up to this one."""
        return step - self.warmup_steps
