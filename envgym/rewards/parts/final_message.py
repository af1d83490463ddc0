"""Rewards grounded in what was said: facts in the last message, and the form of the calls."""

from __future__ import annotations

import re

from envgym.dialects import parse
from envgym.rewards.rubric import Evidence


def facts_told(evidence: Evidence, *, max_words: int = 60) -> float | None:
    """Share of the task's facts that stand in the final message; None for a task without facts.

    A message of more than `max_words` words tells nothing, so that listing every candidate does not win. What stands in a leading
    `<think>` block is neither told nor counted.
    """
    facts = evidence.task.facts
    if not facts:
        return None
    told = parse(evidence.final, ()).content
    if len(told.split()) > max_words:
        return 0.0
    return sum(_says(told, fact) for fact in facts) / len(facts)


def _says(message: str, fact: str) -> bool:
    """Whether a fact stands in a message as whole words, without regard to case, white space and thousands separators."""
    message, fact = (
        re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(text.split()).casefold())
        for text in (message, fact)
    )
    return re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", message) is not None


def valid_calls(evidence: Evidence) -> float:
    """Share of attempted calls, malformed ones included, that a tool accepted; 0.0 without any attempt."""
    malformed = evidence.parse_modes.get("invalid", 0)
    attempts = len(evidence.calls) + malformed
    return sum(record.ok for record in evidence.calls) / attempts if attempts else 0.0


def turns(evidence: Evidence) -> float:
    """Number of the model's answers (a metric)."""
    return float(evidence.turns)
