"""Rewards from tables and files: changed rows against expected changes, and the hidden test."""

from __future__ import annotations

from envgym.messages import ToolCall
from envgym.rewards.evidence import Evidence
from envgym.rewards.parts.final_message import facts_told
from envgym.rewards.row_pairs import RowDiff
from envgym.rewards.scoring.facts import MAX_WORDS
from envgym.rewards.state_diff import concerns, fits
from envgym.tasks import Change
from envgym.values import equal


def state_match(evidence: Evidence, *, max_words: int = MAX_WORDS) -> float:
    """Return 1.0 if exactly the expected rows changed, all facts are given and the test passed.

    If the task has `changes=NOTHING`, no row may change, and each call of its oracle must have been
    made. Inaction is never rewarded: another task without expected changes and facts gets 0.0.

    Args:
        max_words: Maximum number of words of a final message that tells facts; see `facts_told`.

    Returns:
        1.0 or 0.0.
    """
    task = evidence.task
    if not task.changes and not task.facts and not task.unchanged:
        return 0.0
    told = facts_told(evidence, max_words=max_words)
    return float(
        evidence.verdict.is_exact
        and told in (None, 1.0)
        and calls_made(evidence) in (None, 1.0)
        and tests_pass(evidence) in (None, 1.0)
    )


def calls_made(evidence: Evidence) -> float | None:
    """Return the fraction of the oracle's calls that were made; `None` unless nothing may change.

    A call counts if a tool accepted it with the same arguments, in any order.
    """
    task = evidence.task
    if not task.unchanged or not task.oracle:
        return None
    made = [record.call for record in evidence.calls if record.ok]
    return sum(any(_same_call(call, one) for one in made) for call in task.oracle) / len(
        task.oracle
    )


def _same_call(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and equal(one.arguments, other.arguments)


def tests_pass(evidence: Evidence) -> float | None:
    """Return 1.0 if the task's hidden test exited with code 0; `None` if it has no test."""
    if evidence.verification is None:
        return None
    return float(evidence.verification.passed)


def state_progress(evidence: Evidence, *, per_extra: float = 0.5) -> float:
    """Return the fraction of the expected changes that were made, from 0.0 to 1.0.

    Each expected change earns the fraction of its columns that are right in the best matching row,
    so the right row with a wrong value gets partial credit. If nothing may change, it is the
    fraction of the oracle's calls that were made.

    Args:
        per_extra: Penalty for each unexpected change, in units of one expected change. It keeps
            additional writes from paying off.
    """
    expected = evidence.task.changes
    if not expected:
        made = calls_made(evidence) or 0.0
        return max(0.0, made - per_extra * len(evidence.verdict.extra))
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
