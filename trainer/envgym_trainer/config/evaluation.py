"""The `train.evaluation`, `train.output` and `train.checks` blocks: around the training itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from envgym.block import Block

BASE = "base model"
WARM = "warm start"
TRAINED = "trained"
"""Names of a run's evaluations, in their order."""


class EvaluationConfig(Block):
    split: Literal["val", "test"] = "test"
    """Split of the held-out tasks of the final table."""
    tasks: int | None = Field(default=None, ge=1)
    """Number of held-out tasks. At least 1. None: all."""
    base_tasks: int | None = Field(default=None, ge=0)
    """Number of held-out tasks for the base model, before training. At least 0; 0 skips it. None:
    as many as `tasks`."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of evaluations. At least 0; 0 is greedy. It is not `rollout.temperature`, because
    greedy evaluations of two adapters differ by the adapters alone, not by sampling."""
    validate_every_steps: int = Field(default=0, ge=0)
    """Number of GRPO steps between validations. At least 0; 0 turns validation off."""
    validation_tasks: int = Field(default=64, ge=1)
    """Number of tasks of one validation. At least 1."""


class OutputConfig(Block):
    adapter: Literal["last", "best", "none"] = "last"
    """Adapter that is evaluated and written at the end. last: of the last step. best: the one with
    the highest validation success (the earliest of equal ones) of the base model, the warm start
    and the validated steps; needs `evaluation.validate_every_steps`. none: of the last step, and
    only checkpoints are written, for adapters that servers refuse."""
    checkpoint_every_steps: int = Field(default=10, ge=0)
    """Number of GRPO steps between checkpoints. At least 0; 0 saves only at the end."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of latest checkpoints to keep. At least 1. The best by validation is kept besides."""


class ChecksConfig(Block):
    preflight: Literal["auto", "full", "off"] = "auto"
    """Check before the first step whether the run can learn, and refuse it if not. auto: seconds.
    full: the checks of `envgym preflight`. off: no check."""
    on_mismatch: Literal["warn", "stop"] = "warn"
    """Reaction if the engine's and the learner's probabilities of a token differ by more than
    rounding. warn: report it once. stop: save and end the run before the update. The metric
    `off_policy/mismatch_alarm` is 1 at such a step."""
    hacking_signals: bool = True
    """Monitor signals of reward hacking. They are reported once and recorded in
    `hacking_signals.jsonl` and in the metrics `hacking/signal/...`. They never change the run."""

    @field_validator("preflight", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false
