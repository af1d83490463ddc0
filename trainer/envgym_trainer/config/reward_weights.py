"""The `train.reward_weights:` block. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from envgym.block import Block


class RewardWeightsConfig(Block):
    mode: Literal["fixed", "spread", "feedback"] = "fixed"
    """Whether the weights of the reward's parts stay as the environment says, follow what the parts tell apart (`spread`: none
    drowns the others), or follow what people liked (`feedback`)."""
    bound: float = Field(default=4.0, ge=1)
    """A weight is multiplied by at most this, and at least by one over it."""
    rate: float = Field(default=0.1, gt=0, le=1)
    """Share of the way that `spread` goes at each step."""
    saturated: float = Field(default=0.1, ge=0, le=1)
    """A part that tells episodes apart in a smaller share of groups than this keeps its weight: only noise is left in it."""
    feedback: str | None = None
    """JSONL file of likes, one `{"episode": "12:3", "like": true}` a line: the third episode of step 12. Read again at each step; a
    line that is taken out is forgotten."""
    prior: float = Field(default=1.0, gt=0)
    """How many likes speak for the weights as they are: strength of the ridge in the fit."""

    @model_validator(mode="after")
    def _has_its_file(self) -> RewardWeightsConfig:
        if (self.mode == "feedback") != (self.feedback is not None):
            raise ValueError("feedback: needs mode: feedback and a file of likes, both or neither")
        return self
