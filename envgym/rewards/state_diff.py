"""Compare the changes that an episode made to its tables with the expected changes.

An expected value is met by the rules of `envgym/values.py`. Reads leave no trace, so they cannot
change a reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.rewards.row_pairs import RowDiff, matches, readable
from envgym.rewards.row_pairs import diff_rows as diff_rows
from envgym.rewards.table_columns import Keys as Keys
from envgym.rewards.table_columns import primary_keys as primary_keys
from envgym.tasks import ANY, Change
from envgym.values import equal, identity


@dataclass(frozen=True, slots=True)
class Verdict:
    """Comparison of the changes that happened with the expected changes."""

    matched: tuple[Change, ...]
    missing: tuple[Change, ...]
    extra: tuple[RowDiff, ...]
    """Unexpected changes outside the tables in `allow`."""
    forbidden: tuple[RowDiff, ...]
    """Unexpected changes in a forbidden table; a subset of `extra`."""

    @property
    def is_exact(self) -> bool:
        """Whether all expected changes happened and no other."""
        return not self.missing and not self.extra

    def to_dict(self) -> dict[str, Any]:
        """Return the form that episode records store."""
        plain = {
            "matched": [_plain(change) for change in self.matched],
            "missing": [_plain(change) for change in self.missing],
        }
        return plain | {
            "extra": [row.to_dict() for row in self.extra],
            "forbidden": [row.to_dict() for row in self.forbidden],
        }


def _plain(change: Change) -> dict[str, Any]:
    values = {
        column: repr(value) if value is ANY else readable(value)
        for column, value in change.values.items()
    }
    key = readable(change.key)
    return {"kind": change.kind, "table": change.table, "key": key, "values": values}


def compare_changes(
    expected: Sequence[Change],
    rows: Sequence[RowDiff],
    *,
    allow: Sequence[str] = (),
    forbid: Sequence[str] = (),
    written: Iterable[str] = (),
) -> Verdict:
    """Match each expected change with one changed row.

    The number of matches is the largest possible, and each row is used at most once.

    Args:
        expected: Expected changes.
        rows: Changed rows, see `diff_rows`.
        allow: Tables (patterns) in which unexpected changes are ignored.
        forbid: Tables (patterns) in which unexpected changes are reported as forbidden.
        written: Tables that were written to at any time. A forbidden one counts as changed, even if
            its rows are restored, unless a change in it is expected.
    """
    row_of = _matching(
        [[index for index, row in enumerate(rows) if satisfies(row, change)] for change in expected]
    )
    used = set(row_of.values())
    extra = [
        row for index, row in enumerate(rows) if index not in used and not matches(row.table, allow)
    ]
    seen = {row.table for row in rows} | {change.table for change in expected}
    extra += [
        RowDiff("undone", table, None, {}, {})
        for table in sorted(set(written) - seen)
        if matches(table, forbid)
    ]
    return Verdict(
        matched=tuple(change for index, change in enumerate(expected) if index in row_of),
        missing=tuple(change for index, change in enumerate(expected) if index not in row_of),
        extra=tuple(extra),
        forbidden=tuple(row for row in extra if matches(row.table, forbid)),
    )


def satisfies(row: RowDiff, change: Change) -> bool:
    """Return whether a changed row matches a `Change` exactly."""
    if not concerns(row, change):
        return False
    if change.kind == "update" and set(row.after) - set(change.values) - row.rules.generated:
        return False
    return all(
        column in row.after and fits(row, column, value) for column, value in change.values.items()
    )


def concerns(row: RowDiff, change: Change) -> bool:
    """Return whether a `Change` is about this row: kind, table and, unless inserted, key."""
    if (row.kind, row.table) != (change.kind, change.table):
        return False
    return change.kind == "insert" or identity(row.key) == identity(change.key)


def fits(row: RowDiff, column: str, expected: Any) -> bool:
    """Return whether a cell of a changed row has the value that a `Change` expects."""
    if expected is ANY:
        return True
    if isinstance(expected, bool) and column in row.rules.booleans:
        expected = int(expected)
    folded = column in row.rules.free_text
    return equal(row.after[column], expected, tolerance=row.rules.tolerance, folded=folded)


def _matching(candidates: list[list[int]]) -> dict[int, int]:
    """Return a maximum matching of changes (by index) to rows, by augmenting paths (Kuhn 1955)."""
    owner: dict[int, int] = {}

    def place(change: int, tried: set[int]) -> bool:
        for row in candidates[change]:
            if row not in tried:
                tried.add(row)
                if row not in owner or place(owner[row], tried):
                    owner[row] = change
                    return True
        return False

    for change in range(len(candidates)):
        place(change, set())
    return {change: row for row, change in owner.items()}
