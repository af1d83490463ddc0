"""The reward of ToolRL: format + correctness + length, with all switches of its experiments.

>>> total("<think>a</think>", "<think>b</think>").format
1.0

The default equals the authors' `compute_score`, from -3 to 4. `ToolRlSettings.paper()` follows the
paper if its code differs. One difference remains: an unreadable truth raises, while the code
gives every answer the minimum.
Source: arXiv 2504.13958; github.com/qiancheng0/ToolRL at commit 8cee13e.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from envgym.errors import UsageError, did_you_mean
from envgym.rewards.scoring.toolrl_match import (
    Granularity,
    Matching,
    Names,
    correctness_score,
    truth_calls,
)
from envgym.rewards.scoring.toolrl_text import (
    ChatTemplate,
    assistant_text,
    format_score,
    length_score,
)

__all__ = [
    "ToolRlReward",
    "ToolRlSettings",
    "assistant_text",
    "correctness_reward",
    "correctness_score",
    "format_reward",
    "format_score",
    "length_reward",
    "length_score",
    "total",
    "truth_calls",
]

Range = tuple[float, float]
"""Reward of a score of 0 and of a score of 1."""
SECOND_STAGE = 30
"""Training step from which `two_stage` weighs correctness more than format."""


class ToolRlReward(NamedTuple):
    """Reward of one answer, in the order of the reference."""

    total: float
    format: float
    correctness: float
    length: float


@dataclass(frozen=True, slots=True)
class ToolRlSettings:
    """Switches of the reward, named as in the paper, with the code's variable in capitals.

    Switches of one range are applied in the order `equal_max`, `two_stage`, `smooth`.
    """

    with_length: bool = False
    """Add the length reward, from 0 to 1 (WITHLENGTH)."""
    schedule_length: bool = False
    """Let the length target grow from 384 words to 640 at step 105 and further, instead of a
    constant 512 (SCHEDULELENGTH)."""
    equal_max: bool = False
    """Limit correctness to -1 to 1, the size of format, instead of -3 to 3 (CORRECTMAX1)."""
    two_stage: bool = False
    """Divide correctness by 3 before step 30, and format by 2 from then on (MAX1STEP30MAX3)."""
    smooth: bool = False
    """Shrink format from [-2, 2] and move correctness from [-2, 2] to its range until step 150
    (SCHEDULEREWARD)."""
    granularity: Granularity = "default"
    """See `correctness_score` (REFINEDREWARD, INTERMEDIATEREWARD, COARSEREWARD)."""
    matching: Matching = "greedy"
    """Matching of calls: greedy in the code, optimal in the paper."""
    names: Names = "multiset"
    """Comparison of names: multisets in the code, sets in the paper. `exact` with `intermediate`
    sets both of the code's variables."""
    guard: bool = False
    """Penalize additional calls and keys; in neither paper nor code. See `correctness_score`."""
    schedule: Literal["code", "paper"] = "code"
    """Formulas of `smooth` and `schedule_length`. With p = step / total_steps, the paper's are:
    format [-2+p, 2-p], correctness [-2-p, 2+p], target 512·(1+p) words."""
    total_steps: int = 105
    """Number of training steps, for the paper's schedule."""
    template: ChatTemplate | None = None
    """Chat template of a transcript; `None` for a completion (EXPERIMENT_NAME)."""

    def __post_init__(self) -> None:
        for name, options in _choices().items():
            value = getattr(self, name)
            if value not in options:
                known = ", ".join(map(str, options))
                raise UsageError(
                    f"ToolRL: {name} is {value!r}{did_you_mean(value, options)}; available: {known}"
                )
        if self.total_steps < 1:
            raise UsageError(
                f"ToolRL: total_steps is {self.total_steps}, but it must be at least 1"
            )
        if self.schedule == "paper" and self.smooth and (self.equal_max or self.two_stage):
            raise UsageError(
                "ToolRL: the paper's smooth schedule sets the ranges. "
                "Remove equal_max and two_stage"
            )

    @classmethod
    def of(cls, switches: Mapping[str, Any]) -> ToolRlSettings:
        """Return the settings for the options of a YAML file.

        Raises:
            UsageError: If an option is unknown; the message suggests the closest one.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(switches.keys() - set(known)):
            hint = did_you_mean(unknown[0], known) or f"; known: {', '.join(known)}"
            raise UsageError(f"ToolRL: unknown option '{unknown[0]}'{hint}")
        return cls(**switches)

    @classmethod
    def paper(cls, **switches: Any) -> ToolRlSettings:
        """Return the settings of the paper for everything in which its code differs."""
        return cls.of({"matching": "optimal", "names": "set", "schedule": "paper"} | switches)

    def format_range(self, step: int) -> Range:
        """Return the minimum and maximum of the format reward at a training step."""
        low = 0.0
        high = 1.0
        if self.two_stage and step >= SECOND_STAGE:
            low = low / 2
            high = high / 2
        if not self.smooth:
            return low, high
        if self.schedule == "paper":
            return -2 + self._progress(step), 2 - self._progress(step)
        # As in the reference, the minimum stays negative, unlike in every other setting.
        return min(-1.0, -2 + (2 + low) * step / 150), max(1.0, 2 - (2 - high) * step / 150)

    def correctness_range(self, step: int) -> Range:
        """Return the minimum and maximum of the correctness reward at a training step."""
        high = 1.0 if self.equal_max else 3.0
        if self.two_stage and step < SECOND_STAGE:
            high = high / 3
        if self.smooth and self.schedule == "paper":
            high = 2 + self._progress(step)
        elif self.smooth:
            high = min(3.0, 2 + (high - 2) * step / 150)
        return -high, high

    def length_target(self, step: int) -> float:
        """Return the number of words that earn the full length reward at a training step."""
        if not self.schedule_length:
            return 512.0
        if self.schedule == "paper":
            return 512.0 * (1 + self._progress(step))
        return 384 + (640 - 384) * step / 105

    def _progress(self, step: int) -> float:
        return min(1.0, step / self.total_steps)


def total(
    text: str, truth: str, *, step: int = 0, settings: ToolRlSettings | None = None
) -> ToolRlReward:
    """Return the reward of an answer and its parts.

    Args:
        text: The model's answer, or a transcript if `settings.template` is set.
        truth: A right answer in the same form.
        step: Training step, from 0.
        settings: Switches. Default: the defaults of the reference.

    Returns:
        (total, format, correctness, length). Correctness is 0 if the truth has no tool call; the
        total then ranges from 0 to 1.

    Raises:
        UsageError: If the truth cannot be read.
    """
    settings = settings or ToolRlSettings()
    text = assistant_text(text, template=settings.template)
    form = format_reward(text, truth, step=step, settings=settings)
    correctness = correctness_reward(text, truth, step=step, settings=settings) or 0.0
    length = length_reward(text, step=step, settings=settings) if settings.with_length else 0.0
    return ToolRlReward(form + correctness + length, form, correctness, length)


def format_reward(text: str, truth: str, *, step: int, settings: ToolRlSettings) -> float:
    """Return the format score, scaled to its range at this step."""
    return _scaled(format_score(text, truth), settings.format_range(step))


def correctness_reward(
    text: str, truth: str, *, step: int, settings: ToolRlSettings
) -> float | None:
    """Return the correctness score, scaled to its range; `None` if the truth has no tool call."""
    score = correctness_score(
        text,
        truth,
        granularity=settings.granularity,
        matching=settings.matching,
        names=settings.names,
        guard=settings.guard,
    )
    return None if score is None else _scaled(score, settings.correctness_range(step))


def length_reward(text: str, *, step: int, settings: ToolRlSettings) -> float:
    """Return the length score against the target at this step."""
    return length_score(text, target=settings.length_target(step))


def _scaled(score: float, range_: Range) -> float:
    low, high = range_
    return low * (1 - score) + high * score  # no rounding error at either end


def _choices() -> dict[str, tuple[Any, ...]]:
    """Return field -> allowed values, for the fields with a fixed list of values."""
    return {
        "granularity": get_args(Granularity),
        "matching": get_args(Matching),
        "names": get_args(Names),
        "schedule": ("code", "paper"),
        "template": (None, *get_args(ChatTemplate)),
    }
