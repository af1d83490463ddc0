"""State of an MCP server, from its dump tool: `{table: [row, ...]}` as JSON.

Only dumped data can be compared, hashed or used in tasks. The order of tables and rows is ignored.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from envgym.sandbox import RowChanges

Tables = dict[str, list[dict[str, Any]]]


def read_tables(text: str) -> Tables:
    """Parse the tables of a dump. Lists and objects in cells become JSON text.

    Raises:
        ValueError: If the text is not a dump.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or not all(_are_rows(rows) for rows in data.values()):
        raise ValueError('a dump must be JSON of the form {"table": [{"column": value, ...}, ...]}')
    return {
        table: [{column: _cell(value) for column, value in row.items()} for row in rows]
        for table, rows in data.items()
    }


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _cell(value: Any) -> Any:
    return _text(value) if isinstance(value, list | dict) else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def tables_hash(tables: Tables, *, volatile: Sequence[str] = ()) -> str:
    """Return a hash of the state without its volatile columns.

    It has 16 hexadecimal digits and is equal for equal rows in any order.
    """
    rows = {
        table: sorted(_text(_stable(table, row, volatile)) for row in rows)
        for table, rows in tables.items()
    }
    return hashlib.sha256(_text(rows).encode()).hexdigest()[:16]


def _stable(table: str, row: dict[str, Any], volatile: Sequence[str]) -> dict[str, Any]:
    kept = {
        name
        for name in row
        if not any(fnmatchcase(f"{table}.{name}", pattern) for pattern in volatile)
    }
    return {name: row[name] for name in row if name in kept}


def tables_diff(start: Tables, now: Tables) -> RowChanges:
    """Return the rows added and removed in each changed table."""
    changes: RowChanges = {}
    for table in sorted(start.keys() | now.keys()):
        added = _without(now.get(table, []), start.get(table, []))
        removed = _without(start.get(table, []), now.get(table, []))
        if added or removed:
            changes[table] = {"added": added, "removed": removed}
    return changes


def _without(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left = Counter(map(_text, others))
    kept = []
    for row in rows:
        if left[_text(row)] > 0:
            left[_text(row)] -= 1
        else:
            kept.append(row)
    return kept


def fill(db: sqlite3.Connection, tables: Tables, keys: dict[str, tuple[str, ...]]) -> None:
    """Create the tables in an SQLite database, for task templates to read.

    Columns are the row's and the key's, without types. A table without columns is skipped.
    """
    for table, rows in tables.items():
        columns = list(
            dict.fromkeys([*keys.get(table, ()), *(column for row in rows for column in row)])
        )
        if columns:
            key = f", PRIMARY KEY ({_names(keys[table])})" if keys.get(table) else ""
            db.execute(f"CREATE TABLE {_names([table])} ({_names(columns)}{key})")
            marks = ", ".join("?" * len(columns))
            values = [[row.get(column) for column in columns] for row in rows]
            db.executemany(f"INSERT INTO {_names([table])} VALUES ({marks})", values)


def _names(names: Sequence[str]) -> str:
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)
