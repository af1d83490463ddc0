"""What an episode did to its tables, compared with what it should have done.

Rows pair by primary key, so order never matters; numbers compare by value; volatile columns are never looked at. Reading
leaves no trace here, so reads can never change a reward.

    rows = diff_rows(session.diff(...), keys, volatile=("*.updated_at",))
    verdict = judge(task.changes, rows, allow=("audit_log",), forbid=("users",))
    verdict.exact
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
"""Table -> columns of its primary key; a table without one pairs nothing, so an update shows as delete and insert."""


@dataclass(frozen=True, slots=True)
class RowDiff:
    """One row that changed."""

    kind: Literal["insert", "update", "delete"]
    table: str
    key: Any
    """Value of the primary key (a tuple where it has several columns); None for a table without one."""
    before: Row
    """The changed columns of an update, all columns of a delete, empty for an insert."""
    after: Row
    """The changed columns of an update, all columns of an insert, empty for a delete."""
    exact_text: bool = False
    """Whether expected text must be met to the letter, as in files; else case and white space are free."""

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
    """How the changes that happened meet those that were expected."""

    met: tuple[Change, ...]
    missing: tuple[Change, ...]
    extra: tuple[RowDiff, ...]
    """Changes that nobody asked for, outside the tables in `allow`."""
    forbidden: tuple[RowDiff, ...]
    """Those of the extra ones that fall in a forbidden table."""

    @property
    def exact(self) -> bool:
        """Everything expected happened, and nothing else."""
        return not self.missing and not self.extra

    def to_dict(self) -> dict[str, Any]:
        """The form kept in episode records."""
        plain = {
            "met": [_plain(change) for change in self.met],
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
    """The primary key of every table that a schema creates."""
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
    # PRAGMA table_info: (cid, name, type, notnull, default, pk); pk numbers the columns of the key from 1.
    return {
        table: tuple(c[1] for c in sorted((c for c in cols if c[5]), key=lambda c: c[5]))
        for table, cols in columns.items()
    }


def diff_rows(
    changes: RowChanges, keys: Keys, *, volatile: Sequence[str] = (), exact: Sequence[str] = ()
) -> list[RowDiff]:
    """Pairs the rows that went and came by primary key. A row whose volatile columns alone changed is left out.

    Args:
        exact: tables whose text an expected change must meet to the letter.
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
    """Whether two cells are equal: numbers by value, text without regard to case and repeated or outer white space."""
    if isinstance(one, str) and isinstance(other, str) and not exact_text:
        return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))
    return type(one) is type(other) and one == other


def judge(
    expected: Sequence[Change],
    rows: Sequence[RowDiff],
    *,
    allow: Sequence[str] = (),
    forbid: Sequence[str] = (),
) -> Verdict:
    """Matches each expected change with one row that changed, as many as possible, each row used once."""
    row_of = _matching(
        [[index for index, row in enumerate(rows) if satisfies(row, change)] for change in expected]
    )
    used = set(row_of.values())
    extra = [
        row for index, row in enumerate(rows) if index not in used and not matches(row.table, allow)
    ]
    return Verdict(
        met=tuple(change for index, change in enumerate(expected) if index in row_of),
        missing=tuple(change for index, change in enumerate(expected) if index not in row_of),
        extra=tuple(extra),
        forbidden=tuple(row for row in extra if matches(row.table, forbid)),
    )


def satisfies(row: RowDiff, change: Change) -> bool:
    """Whether a changed row is just what a `Change` asks for."""
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
    """Whether a cell of a changed row has the value that a `Change` asks for."""
    return expected is ANY or same_value(row.after[column], expected, exact_text=row.exact_text)


def _matching(candidates: list[list[int]]) -> dict[int, int]:
    """A largest matching of changes (by index) to rows, by augmenting paths (Kuhn 1955)."""
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
