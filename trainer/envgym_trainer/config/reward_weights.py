"""The `train.reward_weights` block: weights of reward parts that adapt during training.

Importable without torch. See `envgym_trainer/reward_weights.py` for the rules.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from envgym.block import Block


class RewardWeightsConfig(Block):
    mode: Literal["fixed", "spread", "feedback"] = "fixed"
    """fixed: the weights of the environment. spread: equalize the standard deviations of the parts
    within groups, so that none dominates. feedback: fit the weights to human feedback."""
    max_factor: float = Field(default=4.0, ge=1)
    """Largest factor between an adapted weight and the environment's, up or down. At least 1."""
    rate: float = Field(default=0.1, gt=0, le=1)
    """Fraction of the distance to its target that a weight moves each step, for `mode: spread`.
    Above 0, at most 1."""
    min_varying_fraction: float = Field(default=0.1, ge=0, le=1)
    """Minimum fraction of groups in which a part must vary before it is re-weighted. 0 to 1. Below
    it, the variation is mostly noise."""
    feedback_file: str | None = None
    """JSONL file of feedback, one `{"episode": "12:3", "like": true}` a line: the third episode of
    step 12. It is read at each step. A line that is removed no longer counts."""
    prior_strength: float = Field(default=1.0, gt=0)
    """Number of likes that the environment's weights are worth: the ridge of the fit. Above 0."""

    @model_validator(mode="after")
    def _has_its_file(self) -> RewardWeightsConfig:
        if (self.mode == "feedback") != (self.feedback_file is not None):
            raise ValueError(
                "mode: feedback needs feedback_file, and feedback_file needs that mode"
            )
        return self
