"""ToolRL's rewards for one answer with tool calls: its format, its calls against a truth's, the length of its thought.

    reward:
      solved: {from: toolrl_solved, weight: 0}
      format: {from: toolrl_format}
      correctness: {from: toolrl_correctness, options: {guard: true}}

The truth is the task's `extra["truth"]`, a right answer as text; a task without one is not scored. What is judged is the last
answer of the episode, so `episode.max_turns: 1` is ToolRL's setting: a model that may try again is not what the truth was made
for. Parts of weight 1 add up to the reference's total when they are given the same switches; `toolrl_length` counts where it is
named. The switches are those of `envgym.scoring.toolrl.ToolRlSettings`, schedules go by the training step.
"""

from __future__ import annotations

from typing import Any

from envgym.errors import UsageError
from envgym.rubric import Evidence
from envgym.scoring.toolrl import ToolRlSettings, assistant_text, correctness_reward, format_reward, length_reward
from envgym.scoring.toolrl_match import correctness_score
from envgym.scoring.toolrl_text import format_score


def toolrl_format(
    evidence: Evidence,
    *,
    two_stage: bool = False,
    smooth: bool = False,
    equal_max: bool = False,
    schedule: Any = "code",
    total_steps: int = 105,
    template: Any = None,
) -> float | None:
    """The answer has the truth's tags, in order and once each: 0 or 1, or the range of the step (`two_stage`, `smooth`)."""
    settings = ToolRlSettings(
        two_stage=two_stage, smooth=smooth, equal_max=equal_max, schedule=schedule, total_steps=total_steps, template=template
    )
    if (case := _case(evidence, settings)) is None:
        return None
    return format_reward(*case, step=evidence.step, settings=settings)


def toolrl_correctness(
    evidence: Evidence,
    *,
    granularity: Any = "default",
    matching: Any = "greedy",
    names: Any = "multiset",
    guard: bool = False,
    equal_max: bool = False,
    two_stage: bool = False,
    smooth: bool = False,
    schedule: Any = "code",
    total_steps: int = 105,
    template: Any = None,
) -> float | None:
    """How near the answer's calls come to the truth's, from -3 to 3 or in the range of the step; None for a truth without a call."""
    settings = ToolRlSettings(
        granularity=granularity, matching=matching, names=names, guard=guard, equal_max=equal_max, two_stage=two_stage,
        smooth=smooth, schedule=schedule, total_steps=total_steps, template=template,
    )  # fmt: skip
    if (case := _case(evidence, settings)) is None:
        return None
    return correctness_reward(*case, step=evidence.step, settings=settings)


def toolrl_length(
    evidence: Evidence,
    *,
    schedule_length: bool = False,
    schedule: Any = "code",
    total_steps: int = 105,
    template: Any = None,
) -> float | None:
    """How long the thought is against 512 words, or against the target of the step (`schedule_length`); from 0 to 1."""
    settings = ToolRlSettings(schedule_length=schedule_length, schedule=schedule, total_steps=total_steps, template=template)
    if (case := _case(evidence, settings)) is None:
        return None
    return length_reward(case[0], step=evidence.step, settings=settings)


def toolrl_solved(evidence: Evidence, *, template: Any = None) -> float | None:
    """1.0 when format and calls are wholly right, the calls in any order; else 0.0. Words of a response are not judged."""
    if (case := _case(evidence, ToolRlSettings(template=template))) is None:
        return None
    return float(format_score(*case) == 1.0 and correctness_score(*case) in (None, 1.0))


def _case(evidence: Evidence, settings: ToolRlSettings) -> tuple[str, str] | None:
    """Answer and truth. Raises UsageError for a truth that is no text."""
    truth = evidence.task.extra.get("truth")
    if truth is None or not evidence.said:
        return None
    if not isinstance(truth, str):
        raise UsageError(f"task '{evidence.task.id}': extra['truth'] must be a right answer as text, got {type(truth).__name__}")
    return assistant_text(evidence.said[-1], template=settings.template), truth
