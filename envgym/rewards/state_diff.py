"""Compare the changes that an episode made to its tables with the expected changes.

Rows are paired by primary key, so their order does not matter. Numbers compare by value and
volatile columns are ignored. Reads leave no trace, so they cannot change a reward.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from envgym.sandbox import RowChanges
from envgym.tasks import ANY, Change

Row = dict[str, Any]
Keys = dict[str, tuple[str, ...]]
"""Columns of the primary key of each table. Without a primary key rows cannot be paired, so an
update appears as a delete and an insert."""


@dataclass(frozen=True, slots=True)
class RowDiff:
    """One changed row."""

    kind: Literal["insert", "update", "delete"]
    table: str
    key: Any
    """Value of the primary key, a tuple if it has several columns; None for a table without primary
    key."""
    before: Row
    """Changed columns of an update, all columns of a delete, empty for an insert."""
    after: Row
    """Changed columns of an update, all columns of an insert, empty for a delete."""
    exact_text: bool = False
    """Whether text must match exactly, as in files. If false, case and white space are ignored."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "table": self.table,
            "key": self.key,
            "before": self.before,
            "after": self.after,
        }


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
        column: repr(value) if value is ANY else value for column, value in change.values.items()
    }
    return {"kind": change.kind, "table": change.table, "key": change.key, "values": values}


def primary_keys(schema_sql: str) -> Keys:
    """Return the primary key of every table that a schema creates."""
    with sqlite3.connect(":memory:") as db:
        db.executescript(schema_sql)
        tables = [
            name
            for (name,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        columns = {
            table: db.execute(f'PRAGMA table_info("{table}")').fetchall() for table in tables
        }
    # PRAGMA table_info returns (cid, name, type, notnull, default, pk); pk is the position in the
    # primary key, from 1.
    return {
        table: tuple(c[1] for c in sorted((c for c in cols if c[5]), key=lambda c: c[5]))
        for table, cols in columns.items()
    }


def diff_rows(
    changes: RowChanges, keys: Keys, *, volatile: Sequence[str] = (), exact: Sequence[str] = ()
) -> list[RowDiff]:
    """Pair removed and added rows by primary key and return the changed rows.

    Rows in which only volatile columns changed are omitted.

    Args:
        changes: Removed and added rows of each table.
        keys: Primary key of each table.
        volatile: `table.column` patterns to ignore.
        exact: Tables in which text must match an expected change exactly.
    """
    rows = _paired(changes, keys, volatile)
    return [replace(row, exact_text=True) if row.table in exact else row for row in rows]


def _paired(changes: RowChanges, keys: Keys, volatile: Sequence[str]) -> list[RowDiff]:
    rows: list[RowDiff] = []
    for table, change in sorted(changes.items()):
        key_columns = keys.get(table, ())
        if not key_columns:
            rows += [
                RowDiff("delete", table, None, _stable(table, row, volatile), {})
                for row in change["removed"]
            ]
            rows += [
                RowDiff("insert", table, None, {}, _stable(table, row, volatile))
                for row in change["added"]
            ]
            continue
        gone = {_key(row, key_columns): _stable(table, row, volatile) for row in change["removed"]}
        come = {_key(row, key_columns): _stable(table, row, volatile) for row in change["added"]}
        rows += [
            diff
            for key in sorted(gone | come, key=repr)
            if (diff := _pair(table, key, gone.get(key), come.get(key)))
        ]
    return rows


def _pair(table: str, key: Any, before: Row | None, after: Row | None) -> RowDiff | None:
    if before is None:
        return RowDiff("insert", table, key, {}, after or {})
    if after is None:
        return RowDiff("delete", table, key, before, {})
    changed = [
        column
        for column in after
        if not same_value(before.get(column), after[column], exact_text=True)
    ]
    if not changed:
        return None
    return RowDiff(
        "update",
        table,
        key,
        {column: before.get(column) for column in changed},
        {c: after[c] for c in changed},
    )


def _key(row: Row, columns: tuple[str, ...]) -> Any:
    return row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns)


def _stable(table: str, row: Row, volatile: Sequence[str]) -> Row:
    return {
        column: value for column, value in row.items() if not matches(f"{table}.{column}", volatile)
    }


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def same_value(one: Any, other: Any, *, exact_text: bool = False) -> bool:
    """Return whether two cells are equal.

    Numbers compare by value with a relative tolerance of 1e-9. Text compares without regard to case
    and white space, unless `exact_text` is set.
    """
    if isinstance(one, str) and isinstance(other, str) and not exact_text:
        return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))
    return type(one) is type(other) and one == other


def compare_changes(
    expected: Sequence[Change],
    rows: Sequence[RowDiff],
    *,
    allow: Sequence[str] = (),
    forbid: Sequence[str] = (),
) -> Verdict:
    """Match each expected change with one changed row.

    The number of matches is the largest possible, and each row is used at most once.

    Args:
        expected: Expected changes.
        rows: Changed rows, see `diff_rows`.
        allow: Tables (patterns) in which unexpected changes are ignored.
        forbid: Tables (patterns) in which unexpected changes are reported as forbidden.
    """
    row_of = _matching(
        [[index for index, row in enumerate(rows) if satisfies(row, change)] for change in expected]
    )
    used = set(row_of.values())
    extra = [
        row for index, row in enumerate(rows) if index not in used and not matches(row.table, allow)
    ]
    return Verdict(
        matched=tuple(change for index, change in enumerate(expected) if index in row_of),
        missing=tuple(change for index, change in enumerate(expected) if index not in row_of),
        extra=tuple(extra),
        forbidden=tuple(row for row in extra if matches(row.table, forbid)),
    )


def satisfies(row: RowDiff, change: Change) -> bool:
    """Return whether a changed row matches a `Change` exactly."""
    if (row.kind, row.table) != (change.kind, change.table):
        return False
    if (
        change.kind != "insert"
        and row.key != change.key
        and not same_value(row.key, change.key, exact_text=True)
    ):
        return False
    if change.kind == "update" and set(row.after) - set(change.values):
        return False
    return all(
        column in row.after and fits(row, column, value) for column, value in change.values.items()
    )


def fits(row: RowDiff, column: str, expected: Any) -> bool:
    """Return whether a cell of a changed row has the value that a `Change` expects."""
    return expected is ANY or same_value(row.after[column], expected, exact_text=row.exact_text)


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
