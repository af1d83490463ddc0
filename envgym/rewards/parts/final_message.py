"""Rewards and metrics for the final message and the form of the tool calls."""

from __future__ import annotations

import re

from envgym.dialects import parse
from envgym.rewards.evidence import Evidence


def facts_told(evidence: Evidence, *, max_words: int = 60) -> float | None:
    """Return the fraction of the task's facts that the final message contains.

    A leading `<think>` block is ignored.

    Args:
        max_words: Maximum number of words. A longer message gets 0.0, so that listing all
            candidates does not pay.

    Returns:
        Fraction from 0.0 to 1.0, or `None` if the task has no facts.
    """
    facts = evidence.task.facts
    if not facts:
        return None
    told = parse(evidence.final_message, ()).content
    if len(told.split()) > max_words:
        return 0.0
    return sum(_says(told, fact) for fact in facts) / len(facts)


def _says(message: str, fact: str) -> bool:
    """Return whether a message contains a fact as whole words.

    Case, white space and thousands separators are ignored.
    """
    message, fact = (
        re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(text.split()).casefold())
        for text in (message, fact)
    )
    return re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", message) is not None


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
