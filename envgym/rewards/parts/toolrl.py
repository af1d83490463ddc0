"""ToolRL's rewards for one answer with tool calls: its format, its calls against a truth's, the length of its thought.

    reward:
      solved: {from: toolrl_solved, weight: 0}
      format: {from: toolrl_format, options: &switches {smooth: true, guard: true}}
      correctness: {from: toolrl_correctness, options: *switches}

The truth is the task's `extra["truth"]`, a right answer as text; a task without one is not scored. What is judged is the last
answer of the episode, so `episode.max_turns: 1` is ToolRL's setting: a model that may try again is not what the truth was made
for. The options are the fields of `envgym.rewards.scoring.toolrl.ToolRlSettings`, each part taking all of them and heeding its own;
schedules go by the training step. Given the same options, the parts add up to `total` of that module; `toolrl_length` counts
where it is named, which is `with_length`.
"""

from __future__ import annotations

from typing import Any

from envgym.errors import UsageError
from envgym.rewards.rubric import Evidence, declares
from envgym.rewards.scoring.toolrl import (
    ToolRlSettings,
    assistant_text,
    correctness_reward,
    format_reward,
    length_reward,
)
from envgym.rewards.scoring.toolrl_match import correctness_score
from envgym.rewards.scoring.toolrl_text import format_score


def _worst_format(step: int, **switches: Any) -> float:
    return ToolRlSettings.of(switches).format_range(step)[0]


def _worst_correctness(step: int, **switches: Any) -> float:
    return ToolRlSettings.of(switches).correctness_range(step)[0]


@declares(worst=_worst_format)
def toolrl_format(evidence: Evidence, **switches: Any) -> float | None:
    """The answer has the truth's tags, in order and once each: 0 or 1, or the range of the step (`two_stage`, `smooth`)."""
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return format_reward(*case, step=evidence.step, settings=settings)


@declares(worst=_worst_correctness)
def toolrl_correctness(evidence: Evidence, **switches: Any) -> float | None:
    """How near the answer's calls come to the truth's: -3 to 3, or the range of the step; None for a truth without a call."""
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return correctness_reward(*case, step=evidence.step, settings=settings)


def toolrl_length(evidence: Evidence, **switches: Any) -> float | None:
    """How long the thought is against 512 words, or against the target of the step (`schedule_length`): 0 to 1."""
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return length_reward(case[0], step=evidence.step, settings=settings)


def toolrl_solved(evidence: Evidence, **switches: Any) -> float | None:
    """1.0 when format and calls are wholly right, the calls in any order; else 0.0. The words of a response are not judged."""
    if (case := _case(evidence, ToolRlSettings.of(switches))) is None:
        return None
    return float(format_score(*case) == 1.0 and correctness_score(*case) in (None, 1.0))


def _case(evidence: Evidence, settings: ToolRlSettings) -> tuple[str, str] | None:
    """Answer and truth; None where there is none to judge. Raises UsageError for a truth that is no text."""
    truth = evidence.task.extra.get("truth")
    if truth is None or not evidence.said:
        return None
    if not isinstance(truth, str):
        raise UsageError(
            f"task '{evidence.task.id}': extra['truth'] must be a right answer as text, got {type(truth).__name__}"
        )
    return assistant_text(evidence.said[-1], template=settings.template), truth
