"""The `train.curriculum:` block: which tasks are drawn, and how long an episode may be, as training goes on.

Importable without torch, like `config.py`. What the settings do is in `curriculum.py`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from envgym.block import Block


class HorizonConfig(Block):
    """Episodes are short at first and longer later. Held-out tasks are always played at full length."""

    start: int = Field(ge=1)
    """Turns an episode may take at first; where it is cut there it is `truncated` with stop reason `horizon`, and whether its
    task would have been solved is unknown. Its reward is what the state was worth at that moment."""
    end: int = Field(ge=1)
    """Turns it may take in the end, at most `episode.max_turns`."""
    steps: int | None = Field(default=None, ge=1)
    """GRPO steps over which it grows from `start` to `end`, evenly. Give either this or `score`."""
    score: float | None = Field(default=None, gt=0, le=1)
    """Validation success, on unlocked levels, at which it grows by one turn; asked at each validation (`eval.every`)."""

    @model_validator(mode="after")
    def _grows(self) -> HorizonConfig:
        if self.end < self.start:
            raise ValueError(
                f"end is {self.end}, below start, which is {self.start}: a horizon grows"
            )
        if (self.steps is None) == (self.score is None):
            raise ValueError(
                "set either steps (it grows with time) or score (it grows with validation success)"
            )
        return self


class CurriculumConfig(Block):
    """Off by default: every template of `levels` is drawn alike, at full length."""

    adaptive: bool = False
    """Draw more from templates that are solved sometimes: the weight of one with pass rate p is 4p(1 - p), at least `floor`."""
    floor: float = Field(default=0.1, gt=0, le=1)
    """Weight of a template that is always or never solved; one that is solved half of the time has 1."""
    decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of a pass rate that is kept when a group is seen; 0.9 looks back on about ten groups."""
    unlock_at: float | None = Field(default=None, gt=0, le=1)
    """Levels open one after the other (in the order of `levels`): the next when validation success on the last open one reaches
    this. Asked at each validation (`eval.every`). The warm start shows all levels. None opens all at once."""
    horizon: HorizonConfig | None = None
    """Turns of an episode, growing; none for the environment's own limit."""

    @property
    def is_on(self) -> bool:
        return self.adaptive or self.unlock_at is not None or self.horizon is not None
