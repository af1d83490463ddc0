"""Rewards grounded in tables and files: what the episode changed against what was asked, and what a hidden test says of it."""

from __future__ import annotations

from envgym.rewards.rubric import Evidence
from envgym.rewards.state_diff import RowDiff, fits
from envgym.tasks import Change


def state_match(evidence: Evidence) -> float:
    """1.0 when exactly the expected rows changed, exactly as expected, every fact was told and the check passed; else 0.0.

    A task that expects no change and no fact can not be met: doing nothing is never rewarded.
    """
    from envgym.rewards.parts.final_message import facts_told

    if not evidence.task.changes and not evidence.task.facts:
        return 0.0
    told = facts_told(evidence)
    return float(
        evidence.verdict.exact and told in (None, 1.0) and tests_pass(evidence) in (None, 1.0)
    )


def tests_pass(evidence: Evidence) -> float | None:
    """1.0 when the task's hidden test command ended with exit code 0, else 0.0; None for a task without one."""
    if evidence.verification is None:
        return None
    return float(evidence.verification.passed)


def state_progress(evidence: Evidence, *, per_extra: float = 0.5) -> float:
    """How much of the expected change was made, from 0.0 to 1.0: partial credit for the right row with a wrong value.

    Each expected change gives the share of its columns that came out right in the row that fits best. Every change that
    nobody asked for costs `per_extra` of one change, so that doing more never pays.
    """
    expected = evidence.task.changes
    if not expected:
        return 0.0
    gained = sum(
        max((_closeness(change, row) for row in evidence.rows), default=0.0) for change in expected
    )
    unasked = [
        row
        for row in evidence.verdict.extra
        if not any(_closeness(change, row) > 0 for change in expected)
    ]
    return max(0.0, gained - per_extra * len(unasked)) / len(expected)


def _closeness(change: Change, row: RowDiff) -> float:
    if (change.kind, change.table) != (row.kind, row.table) or (
        change.kind != "insert" and change.key != row.key
    ):
        return 0.0
    if not change.values:
        return 1.0
    right = sum(
        column in row.after and fits(row, column, value) for column, value in change.values.items()
    )
    wrong = len(set(row.after) - set(change.values)) if change.kind == "update" else 0
    return right / (len(change.values) + wrong)


def extra_writes(evidence: Evidence) -> float:
    """How many rows changed that nobody asked for (a metric: give it weight 0, or a negative one)."""
    return float(len(evidence.verdict.extra))
