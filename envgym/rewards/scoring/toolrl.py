"""The reward of ToolRL: format + correctness + length, with every switch of the paper's experiments.

    total("<think>a</think>", "<think>b</think>")  ->  ToolRlReward(total=1.0, format=1.0, correctness=0.0, length=0.0)

By default it gives what the authors' code gives, `compute_score(text, truth, step) -> (total, format, correctness, length)`, from
-3 to 4. Where paper and code differ, `ToolRlSettings.paper()` follows the paper. One difference stays: a truth whose calls cannot
be read raises instead of scoring every answer as the minimum.
Source: ToolRL: Reward is All Tool Learning Needs, arXiv 2504.13958; code github.com/qiancheng0/ToolRL at commit 8cee13e.
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
"""What 0 and 1 of a score become."""
SECOND_STAGE = 30
"""Step from which `two_stage` weighs correctness more than format."""


class ToolRlReward(NamedTuple):
    """What an answer earned; the order is the reference's."""

    total: float
    format: float
    correctness: float
    length: float


@dataclass(frozen=True, slots=True)
class ToolRlSettings:
    """The switches, in the paper's words. Those of one scale are applied in the order `equal_max`, `two_stage`, `smooth`."""

    with_length: bool = False
    """Adds the length reward, from 0 to 1. WITHLENGTH."""
    schedule_length: bool = False
    """Dynamic length: the target grows from 384 to 640 words at step 105 and further; without it, it is 512. SCHEDULELENGTH."""
    equal_max: bool = False
    """Correctness from -1 to 1, as much as format, instead of -3 to 3. CORRECTMAX1."""
    two_stage: bool = False
    """Before step 30 correctness is divided by 3, from then on format by 2. MAX1STEP30MAX3."""
    smooth: bool = False
    """Dynamic scale: format shrinks from [-2, 2] and correctness moves from [-2, 2] to its range by step 150. SCHEDULEREWARD."""
    granularity: Granularity = "default"
    """REFINEDREWARD, INTERMEDIATEREWARD, COARSEREWARD; see `correctness_score`."""
    matching: Matching = "greedy"
    """The code is greedy, the paper optimal."""
    names: Names = "multiset"
    """The code compares multisets of names, the paper sets; `exact` with `intermediate` is both of their variables at once."""
    guard: bool = False
    """Charges calls and keys that only the answer has; in neither paper nor code. See `correctness_score`."""
    schedule: Literal["code", "paper"] = "code"
    """Formulas of `smooth` and `schedule_length`. The paper's go by p = step / total_steps: format [-2+p, 2-p], correctness
    [-2-p, 2+p], target 512·(1+p) words."""
    total_steps: int = 105
    """Steps of the whole training, for the paper's schedule."""
    template: ChatTemplate | None = None
    """Of the transcript that is given; None for a completion. EXPERIMENT_NAME."""

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
                f"ToolRL: total_steps is {self.total_steps}; a training has at least 1"
            )
        if self.schedule == "paper" and self.smooth and (self.equal_max or self.two_stage):
            raise UsageError(
                "ToolRL: the paper's smooth scale sets the ranges by itself: leave equal_max and two_stage out"
            )

    @classmethod
    def of(cls, switches: Mapping[str, Any]) -> ToolRlSettings:
        """The settings that a YAML's options name. Raises UsageError with a suggestion for an unknown one."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(switches.keys() - set(known)):
            hint = did_you_mean(unknown[0], known) or f"; known: {', '.join(known)}"
            raise UsageError(f"ToolRL: unknown option '{unknown[0]}'{hint}")
        return cls(**switches)

    @classmethod
    def paper(cls, **switches: Any) -> ToolRlSettings:
        """As the paper has it where its code differs."""
        return cls.of({"matching": "optimal", "names": "set", "schedule": "paper"} | switches)

    def format_range(self, step: int) -> Range:
        """Least and most of the format reward at a training step."""
        low = 0.0
        high = 1.0
        if self.two_stage and step >= SECOND_STAGE:
            low = low / 2
            high = high / 2
        if not self.smooth:
            return low, high
        if self.schedule == "paper":
            return -2 + self._progress(step), 2 - self._progress(step)
        # The minimum stays negative for good, unlike that of every other setting: so it is in the reference.
        return min(-1.0, -2 + (2 + low) * step / 150), max(1.0, 2 - (2 - high) * step / 150)

    def correctness_range(self, step: int) -> Range:
        """Least and most of the correctness reward at a training step."""
        high = 1.0 if self.equal_max else 3.0
        if self.two_stage and step < SECOND_STAGE:
            high = high / 3
        if self.smooth and self.schedule == "paper":
            high = 2 + self._progress(step)
        elif self.smooth:
            high = min(3.0, 2 + (high - 2) * step / 150)
        return -high, high

    def length_target(self, step: int) -> float:
        """Words of a thought that earn the whole length reward at a training step."""
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
    """The whole reward of an answer.

    Args:
        text: what the model wrote, or a transcript with `settings.template`.
        truth: a right answer in the same form.
        step: training step, from 0.
        settings: the switches; those of the reference's own defaults when not given.
    Returns: (total, format, correctness, length); correctness is 0 for a truth without a tool call, so that its total goes from
        0 to 1.
    Raises: UsageError for a truth that cannot be read.
    """
    settings = settings or ToolRlSettings()
    text = assistant_text(text, template=settings.template)
    form = format_reward(text, truth, step=step, settings=settings)
    correctness = correctness_reward(text, truth, step=step, settings=settings) or 0.0
    length = length_reward(text, step=step, settings=settings) if settings.with_length else 0.0
    return ToolRlReward(form + correctness + length, form, correctness, length)


def format_reward(text: str, truth: str, *, step: int, settings: ToolRlSettings) -> float:
    """The format score in its range of this step."""
    return _scaled(format_score(text, truth), settings.format_range(step))


def correctness_reward(
    text: str, truth: str, *, step: int, settings: ToolRlSettings
) -> float | None:
    """The correctness score in its range of this step; None for a truth without a tool call."""
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
    """The length score against the target of this step."""
    return length_score(text, target=settings.length_target(step))


def _scaled(score: float, range_: Range) -> float:
    low, high = range_
    return low * (1 - score) + high * score  # exact at both ends


def _choices() -> dict[str, tuple[Any, ...]]:
    """Field -> its allowed values, of the fields that have a list of them."""
    return {
        "granularity": get_args(Granularity),
        "matching": get_args(Matching),
        "names": get_args(Names),
        "schedule": ("code", "paper"),
        "template": (None, *get_args(ChatTemplate)),
    }
