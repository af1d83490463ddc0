"""Pair the removed and added rows of a diff, and decide which rows changed.

Whether a row changed is decided exactly: numbers by value, text to the letter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from envgym.rewards.table_columns import RESERVED_KEYS, Columns, Keys
from envgym.sandbox import RowChanges
from envgym.values import FLOAT_TOLERANCE, identity

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CellRules:
    """Rules by which the cells of a row meet expected values."""

    free_text: frozenset[str] = frozenset()
    """Columns in which case and white space of text do not matter."""
    booleans: frozenset[str] = frozenset()
    """Columns in which 1 means true and 0 means false."""
    generated: frozenset[str] = frozenset()
    """Columns computed from others, which an expected update need not name."""
    tolerance: float = FLOAT_TOLERANCE
    """Relative tolerance of floats."""


@dataclass(frozen=True, slots=True)
class RowDiff:
    """One changed row."""

    kind: Literal["insert", "update", "delete", "undone"]
    """Kind of the change. `undone` is a write to a forbidden table that was undone before the end;
    it has no rows."""
    table: str
    key: Any
    """Value of the primary key, a tuple if it has several columns; None for a row without one."""
    before: Row
    """Changed columns of an update, all columns of a delete, empty for an insert."""
    after: Row
    """Changed columns of an update, all columns of an insert, empty for a delete."""
    rules: CellRules = CellRules()

    def to_dict(self) -> dict[str, Any]:
        """Return the form that episode records store. Blobs become SQL literals: `x'00ff'`."""
        return {
            "kind": self.kind,
            "table": self.table,
            "key": readable(self.key),
            "before": {column: readable(value) for column, value in self.before.items()},
            "after": {column: readable(value) for column, value in self.after.items()},
        }


def readable(value: Any) -> Any:
    """Return a value as JSON can hold it. Blobs become SQL literals: `x'00ff'`."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return [readable(part) for part in value] if isinstance(value, tuple) else value


def diff_rows(
    changes: RowChanges,
    keys: Keys,
    *,
    volatile: Sequence[str] = (),
    exact: Sequence[str] = (),
    free_text: Sequence[str] = (),
    columns: Mapping[str, Columns] | None = None,
    tolerance: float = FLOAT_TOLERANCE,
) -> list[RowDiff]:
    """Pair removed and added rows by primary key and return the changed rows.

    Rows in which only volatile columns changed are omitted. A row cannot be paired if its key has a
    NULL or occurs twice; it then appears as a delete or an insert.

    Args:
        changes: Removed and added rows of each table.
        keys: Primary key of each table.
        volatile: `table.column` patterns to ignore.
        exact: Tables in which text compares exactly, also if `free_text` lists them.
        free_text: `table.column` patterns of text that meets an expected text without regard to
            case and white space. Columns of keys and foreign keys stay exact.
        columns: Columns of each table of the schema.
        tolerance: Relative tolerance of a float that meets an expected number.
    """
    keys = dict(RESERVED_KEYS) | keys
    rows: list[RowDiff] = []
    for table, change in sorted(changes.items()):
        known = (columns or {}).get(table, Columns())
        names = {name for row in [*change["removed"], *change["added"]] for name in row}
        folded = frozenset(
            name
            for name in names - known.exact
            if table not in exact and matches(f"{table}.{name}", free_text)
        )
        rules = CellRules(folded, known.booleans, known.generated, tolerance)
        rows += _Table(table, keys.get(table, ()), tuple(volatile), rules).pair(change)
    return rows


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class _Table:
    """Pairing of the rows of one table."""

    name: str
    key_columns: tuple[str, ...]
    volatile: tuple[str, ...]
    rules: CellRules

    def pair(self, change: Mapping[str, list[Row]]) -> list[RowDiff]:
        """Return deletes and inserts of rows that cannot be paired, then the others by key."""
        removed = self._by_key(change["removed"])
        added = self._by_key(change["added"])
        names = {
            name: repr(self._key((removed[name] or added[name])[0]))
            for name in removed.keys() | added.keys()
            if name is not None and len(removed[name]) < 2 and len(added[name]) < 2
        }
        gone = [row for name, rows in removed.items() if name not in names for row in rows]
        come = [row for name, rows in added.items() if name not in names for row in rows]
        gone, come = self._without_equal(gone, come), self._without_equal(come, gone)
        found = [self._lone("delete", row) for row in gone]
        found += [self._lone("insert", row) for row in come]
        paired = sorted(names, key=lambda name: names[name])
        found += [row for name in paired if (row := self._row(removed[name], added[name]))]
        return found

    def _by_key(self, rows: list[Row]) -> defaultdict[Hashable, list[Row]]:
        """Return rows by the identity of their key. Rows without a usable key are under `None`."""
        found: defaultdict[Hashable, list[Row]] = defaultdict(list)
        for coded in rows:
            row = {column: _decoded(value) for column, value in coded.items()}
            cells = [row.get(column) for column in self.key_columns]
            found[identity(cells) if cells and None not in cells else None].append(row)
        return found

    def _row(self, removed: list[Row], added: list[Row]) -> RowDiff | None:
        if not removed:
            return self._lone("insert", added[0])
        if not added:
            return self._lone("delete", removed[0])
        before = self._stable(removed[0])
        after = self._stable(added[0])
        changed = [
            column
            for column in dict.fromkeys([*before, *after])
            if identity(before.get(column)) != identity(after.get(column))
        ]
        if not changed:
            return None
        # A column that a row lacks is NULL.
        old = {column: before.get(column) for column in changed}
        new = {column: after.get(column) for column in changed}
        return RowDiff("update", self.name, self._key(added[0]), old, new, self.rules)

    def _lone(self, kind: Literal["insert", "delete"], row: Row) -> RowDiff:
        stable = self._stable(row)
        before, after = (stable, {}) if kind == "delete" else ({}, stable)
        return RowDiff(kind, self.name, self._key(row), before, after, self.rules)

    def _key(self, row: Row) -> Any:
        """Return the key of a row; `None` if the row has none."""
        cells = [row.get(column) for column in self.key_columns]
        if all(cell is None for cell in cells):
            return None
        return cells[0] if len(cells) == 1 else tuple(cells)

    def _stable(self, row: Row) -> Row:
        return {
            column: value
            for column, value in row.items()
            if not matches(f"{self.name}.{column}", self.volatile)
        }

    def _without_equal(self, rows: list[Row], others: list[Row]) -> list[Row]:
        """Return the multiset difference of rows without a key, volatile columns ignored."""
        left = Counter(map(self._form, others))
        kept = []
        for row in rows:
            if left[form := self._form(row)] > 0:
                left[form] -= 1
            else:
                kept.append(row)
        return kept

    def _form(self, row: Row) -> Hashable:
        stable = self._stable(row).items()
        return frozenset((name, identity(value)) for name, value in stable if value is not None)


def _decoded(value: Any) -> Any:
    """Return the bytes of a blob, which a diff sends as `{"blob": "00ff"}`."""
    return bytes.fromhex(value["blob"]) if isinstance(value, dict) else value
