"""Content of virtual tables (full-text search, R-tree), for diffs.

The rows of a virtual table are read through its module. A full-text index that does not match its
content is compared term by term, and its configuration is part of its state. A table that cannot be
read through its module is compared by the tables in which it is stored.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import Any

Row = dict[str, Any]
_MODULE = re.compile(r"\s*CREATE\s+VIRTUAL\s+TABLE\b", re.IGNORECASE)
_USING = re.compile(r"\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE)
_OTHER_CONTENT = re.compile(r"\bcontent\s*=", re.IGNORECASE)
INDEXES = {
    "fts5": "fts5vocab(main, {table}, 'instance')",
    "fts4": "fts4aux(main, {table})",
    "fts3": "fts4aux(main, {table})",
}
"""Virtual table that lists the terms of a full-text index, by module."""


def is_virtual(sql: str | None) -> bool:
    """Return whether a statement creates a virtual table."""
    return _MODULE.match(sql or "") is not None


def virtual_rows(image: bytes, table: str, sql: str) -> list[Row]:
    """Return the content of a virtual table of a serialized database.

    Args:
        image: Database. A private copy is read, because an index is rebuilt for comparison.
        table: Name of the table.
        sql: Its CREATE statement.
    """
    found = _USING.search(sql)
    module = found[1].lower() if found else ""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        db.deserialize(image)
        try:
            if module not in INDEXES:
                return _select(db, f"SELECT rowid, * FROM {_quoted(table)}")
            return _full_text_rows(db, module, table, bool(_OTHER_CONTENT.search(sql)))
        except sqlite3.DatabaseError:
            return _stored_rows(db, table)


def _full_text_rows(
    db: sqlite3.Connection, module: str, table: str, has_other_content: bool
) -> list[Row]:
    rows: list[Row] = []
    if not has_other_content:
        rows += _select(db, f"SELECT rowid, * FROM {_quoted(table)}")
    if module == "fts5":
        rows += _select(db, f"SELECT k AS config, v AS value FROM {_quoted(table + '_config')}")
    terms = _terms(db, module, table)
    rebuilt = _rebuilt_terms(db, module, table)
    if terms == rebuilt:
        return rows
    # An index without terms must differ from one that fits.
    stale: list[Row] = [] if rebuilt is None else [{"index": "differs from the content"}]
    return rows + stale + terms


def _terms(db: sqlite3.Connection, module: str, table: str) -> list[Row]:
    """Return the terms of a full-text index, in the order of the index."""
    source = INDEXES[module].format(table=_quoted(table))
    db.execute(f"CREATE VIRTUAL TABLE temp.envgym_terms USING {source}")
    try:
        return _select(db, "SELECT * FROM temp.envgym_terms")
    finally:
        db.execute("DROP TABLE temp.envgym_terms")


def _rebuilt_terms(db: sqlite3.Connection, module: str, table: str) -> list[Row] | None:
    """Return the terms that the content has; `None` if the content is not stored."""
    name = _quoted(table)
    try:
        db.execute(f"INSERT INTO {name}({name}) VALUES ('rebuild')")
    except sqlite3.OperationalError:
        return None
    return _terms(db, module, table)


def _stored_rows(db: sqlite3.Connection, table: str) -> list[Row]:
    """Return the rows of the tables in which a virtual table is stored."""
    names = db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, ?) = ?",
        (len(table) + 1, f"{table}_"),
    ).fetchall()
    return [
        {"stored in": name} | row
        for (name,) in names
        for row in _select(db, f"SELECT * FROM {_quoted(name)}")
    ]


def _select(db: sqlite3.Connection, query: str) -> list[Row]:
    cursor = db.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
