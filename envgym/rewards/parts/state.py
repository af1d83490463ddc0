"""Rewards from tables and files: changed rows against expected changes, and the hidden test."""

from __future__ import annotations

from envgym.rewards.evidence import Evidence
from envgym.rewards.row_pairs import RowDiff
from envgym.rewards.state_diff import concerns, fits
from envgym.tasks import Change


def state_match(evidence: Evidence) -> float:
    """Return 1.0 if exactly the expected rows changed, all facts are given and the test passed.

    A task without expected changes and facts always gets 0.0, so that inaction is never rewarded.

    Returns:
        1.0 or 0.0.
    """
    from envgym.rewards.parts.final_message import facts_told

    if not evidence.task.changes and not evidence.task.facts:
        return 0.0
    told = facts_told(evidence)
    return float(
        evidence.verdict.is_exact and told in (None, 1.0) and tests_pass(evidence) in (None, 1.0)
    )


def tests_pass(evidence: Evidence) -> float | None:
    """Return 1.0 if the task's hidden test exited with code 0; `None` if it has no test."""
    if evidence.verification is None:
        return None
    return float(evidence.verification.passed)


def state_progress(evidence: Evidence, *, per_extra: float = 0.5) -> float:
    """Return the fraction of the expected changes that were made, from 0.0 to 1.0.

    Each expected change earns the fraction of its columns that are right in the best matching row,
    so the right row with a wrong value gets partial credit.

    Args:
        per_extra: Penalty for each unexpected change, in units of one expected change. It keeps
            additional writes from paying off.
    """
    expected = evidence.task.changes
    if not expected:
        return 0.0
    gained = sum(
        max((_closeness(change, row) for row in evidence.changed_rows), default=0.0)
        for change in expected
    )
    unasked = [
        row
        for row in evidence.verdict.extra
        if not any(_closeness(change, row) > 0 for change in expected)
    ]
    return max(0.0, gained - per_extra * len(unasked)) / len(expected)


def _closeness(change: Change, row: RowDiff) -> float:
    if not concerns(row, change):
        return 0.0
    if not change.values:
        return 1.0
    right = sum(
        column in row.after and fits(row, column, value) for column, value in change.values.items()
    )
    wrong = set(row.after) - set(change.values) - row.rules.generated
    return right / (len(change.values) + (len(wrong) if change.kind == "update" else 0))


def extra_writes(evidence: Evidence) -> float:
    """Return the number of unexpected row changes; give it weight 0 or a negative one."""
    return float(len(evidence.verdict.extra))
