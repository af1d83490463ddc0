"""Blocks of ToolRL answers and their correctness."""

from envgym.rewards.scoring.toolrl import (
    ToolRlSettings,
    total,
)
from tests.fakes.toolrl_answers import answer


def correctness(made, *wanted, **switches):
    """Return the score, from -3 to 3; `made` is a list of calls or a whole text."""
    text = made if isinstance(made, str) else answer(*made)
    return total(text, answer(*wanted), settings=ToolRlSettings(**switches)).correctness
