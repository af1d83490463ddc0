"""Rewards and metrics for the final message and the form of the tool calls."""

from __future__ import annotations

from envgym.dialects import without_reasoning
from envgym.rewards.evidence import Evidence
from envgym.rewards.scoring.facts import (
    MAX_CANDIDATES,
    MAX_WORDS,
    count_candidates,
    count_words,
    fraction_told,
)


def facts_told(evidence: Evidence, *, max_words: int = MAX_WORDS) -> float | None:
    """Return the fraction of the task's facts that the final message contains.

    Numbers are compared by value, other facts as whole words without regard to case. A leading
    `<think>` block is ignored.

    Args:
        max_words: Maximum number of words, or the length of the task's own `final` if that is
            longer. A longer message gets 0.0, so that listing all candidates does not pay.

    Returns:
        Fraction from 0.0 to 1.0, or `None` if the task has no facts.
    """
    task = evidence.task
    if not task.facts:
        return None
    return fraction_told(
        without_reasoning(evidence.final_message),
        task.facts,
        max_words=max(max_words, count_words(task.final)),
        max_candidates=max(MAX_CANDIDATES, count_candidates(task.final)),
    )


def valid_calls(evidence: Evidence) -> float | None:
    """Return the fraction of attempted calls that a tool accepted; 0.0 without any attempt.

    Malformed calls count as attempts, and so do calls that were not made because of a limit. Calls
    in which the tool failed do not count. If there are no other calls, the part does not apply.
    """
    malformed = evidence.dialects.get("invalid", 0)
    attempts = sum(not record.fault for record in evidence.calls) + malformed
    if not attempts:
        return None if evidence.calls else 0.0
    return sum(record.ok for record in evidence.calls) / attempts


def turns(evidence: Evidence) -> float:
    """Return the number of the model's turns (a metric)."""
    return float(evidence.turns)
