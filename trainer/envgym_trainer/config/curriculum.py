"""The `train.tasks` block: levels, curriculum and the limit of turns during training.

Importable without torch. See `envgym_trainer/curriculum.py` for the rules.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from envgym.block import Block


class HorizonConfig(Block):
    """Limit of turns that grows during training. Held-out tasks are always played at full length.

    An episode that is cut at this limit is truncated with stop reason `horizon`. It is unknown
    whether it would have solved its task; its reward is that of the state when it was cut.
    """

    start_turns: int = Field(ge=1)
    """Limit at the first step. Turns. At least 1."""
    end_turns: int = Field(ge=1)
    """Final limit. Turns. `start_turns` to `episode.max_turns`."""
    over_steps: int | None = Field(default=None, ge=1)
    """Number of GRPO steps over which the limit grows evenly. At least 1. Give this or
    `grow_at`."""
    grow_at: float | None = Field(default=None, gt=0, le=1)
    """Validation success, on unlocked levels, at which the limit grows by one turn. Above 0, at
    most 1. Checked at each validation (`evaluation.validate_every_steps`)."""

    @model_validator(mode="after")
    def _grows(self) -> HorizonConfig:
        if self.end_turns < self.start_turns:
            raise ValueError(
                f"end_turns is {self.end_turns}, below start_turns, which is {self.start_turns}: "
                "a horizon grows"
            )
        if (self.over_steps is None) == (self.grow_at is None):
            raise ValueError(
                "set either over_steps (it grows with time) or grow_at (it grows with validation "
                "success)"
            )
        return self


class TasksConfig(Block):
    """By default every template of `levels` is equally likely, at full length."""

    levels: tuple[str, ...] = ()
    """Levels of the tasks to train and evaluate on. Empty: all levels of the environment."""
    adaptive: bool = False
    """Prefer templates that are solved sometimes: a template with pass rate p has the weight
    4p(1 - p), but at least `min_weight`."""
    min_weight: float = Field(default=0.1, gt=0, le=1)
    """Weight of a template that is always or never solved, for `adaptive`. Above 0, at most 1,
    which is the weight at a pass rate of 0.5."""
    pass_rate_decay: float = Field(default=0.9, ge=0, lt=1)
    """Decay of a pass rate when a group is observed. 0 to below 1; 0.9 averages over about ten
    groups."""
    unlock_at: float | None = Field(default=None, gt=0, le=1)
    """Validation success on the last unlocked level at which the next level is unlocked. Above 0,
    at most 1. Checked at each validation (`evaluation.validate_every_steps`). The warm start uses
    all levels. None: all levels from the start."""
    horizon: HorizonConfig | None = None
    """Growing limit of turns. None: the limit of the environment."""

    @property
    def has_curriculum(self) -> bool:
        return self.adaptive or self.unlock_at is not None or self.horizon is not None
