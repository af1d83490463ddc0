"""The `train.sampling:` block: what other trainers let you set and what this one refuses, each with its reason.

Importable without torch. A policy gradient needs the probability of every token under the distribution that sampled it, and the
trainer scores with the full softmax at `train.temperature`. Whatever cuts or bends that distribution makes the two differ.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from envgym.block import Block


class SamplingConfig(Block):
    """Sampling is from the full distribution at `train.temperature`; these stand here to say so."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Must be 1: see the message for less."""
    top_k: int = Field(default=0, ge=0)
    """Must be 0 (all tokens)."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Must be 1."""

    @field_validator("top_p")
    @classmethod
    def _no_top_p(cls, value: float) -> float:
        if value < 1:
            raise ValueError(f"top_p below 1 {_CUT}")
        return value

    @field_validator("top_k")
    @classmethod
    def _no_top_k(cls, value: int) -> int:
        if value:
            raise ValueError(f"top_k above 0 {_CUT}")
        return value

    @field_validator("repetition_penalty")
    @classmethod
    def _no_penalty(cls, value: float) -> float:
        if value != 1:
            raise ValueError(
                "a repetition penalty makes a token's probability depend on what was said before by a rule that the trained "
                "model does not have, so the ratio of the loss would be wrong for every repeated token. Leave it at 1; to "
                "discourage repetition, give it a negative reward part"
            )
        return value


_CUT = (
    "samples from a cut distribution, but the loss scores with the full one: the tokens kept look less likely than they were, and "
    "the gradient is biased with nothing to show it. Leave it out; for fewer odd tokens lower train.temperature, which is in both"
)
