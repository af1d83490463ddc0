"""ToolRL's rewards for one answer: its format, its tool calls, and the length of its thought.

    reward:
      solved: {from: toolrl_solved, weight: 0}
      format: {from: toolrl_format, options: &switches {smooth: true, guard: true}}
      correctness: {from: toolrl_correctness, options: *switches}

The truth is `extra["truth"]`, a right answer as text. The episode's last answer is scored, so use
`episode.max_turns: 1`, as ToolRL does. Each part accepts all fields of `ToolRlSettings`; with equal
options, the parts add up to `scoring.toolrl.total`. For `with_length`, list `toolrl_length`.
"""

from __future__ import annotations

from typing import Any

from envgym.errors import UsageError
from envgym.rewards.evidence import Evidence
from envgym.rewards.rubric import reward_part
from envgym.rewards.scoring.toolrl import (
    ToolRlSettings,
    assistant_text,
    correctness_reward,
    format_reward,
    length_reward,
)
from envgym.rewards.scoring.toolrl_match import correctness_score
from envgym.rewards.scoring.toolrl_text import format_score


def _minimum_format(step: int, **switches: Any) -> float:
    return ToolRlSettings.of(switches).format_range(step)[0]


def _minimum_correctness(step: int, **switches: Any) -> float:
    return ToolRlSettings.of(switches).correctness_range(step)[0]


@reward_part(minimum=_minimum_format)
def toolrl_format(evidence: Evidence, **switches: Any) -> float | None:
    """Return 1.0 if the answer has the truth's tags once and in order.

    `two_stage` and `smooth` change the range with the training step.

    Returns:
        1.0 or 0.0 in the range of the step, or `None` if the task has no truth.
    """
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return format_reward(*case, step=evidence.step, settings=settings)


@reward_part(minimum=_minimum_correctness)
def toolrl_correctness(evidence: Evidence, **switches: Any) -> float | None:
    """Return the similarity of the answer's calls and the truth's calls, from -3 to 3.

    Returns:
        Score in the range of the training step, or `None` if the truth has no call.
    """
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return correctness_reward(*case, step=evidence.step, settings=settings)


def toolrl_length(evidence: Evidence, **switches: Any) -> float | None:
    """Return the length of the thought relative to 512 words, from 0.0 to 1.0.

    With `schedule_length`, the target depends on the training step.
    """
    settings = ToolRlSettings.of(switches)
    if (case := _case(evidence, settings)) is None:
        return None
    return length_reward(case[0], step=evidence.step, settings=settings)


def toolrl_solved(evidence: Evidence, **switches: Any) -> float | None:
    """Return 1.0 if format and calls are right; the order of the calls is free.

    The text of a response is not scored.
    """
    if (case := _case(evidence, ToolRlSettings.of(switches))) is None:
        return None
    return float(format_score(*case) == 1.0 and correctness_score(*case) in (None, 1.0))


def _case(evidence: Evidence, settings: ToolRlSettings) -> tuple[str, str] | None:
    """Return the last answer and the truth, or `None` if one of them is missing.

    Raises:
        UsageError: If the truth is not a text.
    """
    truth = evidence.task.extra.get("truth")
    if truth is None or not evidence.assistant_messages:
        return None
    if not isinstance(truth, str):
        raise UsageError(
            f"task '{evidence.task.id}': extra['truth'] must be a right answer as text, "
            f"got {type(truth).__name__}"
        )
    return assistant_text(evidence.assistant_messages[-1], template=settings.template), truth
