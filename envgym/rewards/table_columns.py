"""Keys of tables, and columns with rules of their own, read from an SQL schema."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

Keys = dict[str, tuple[str, ...]]
"""Columns of the primary key of each table. Without a primary key rows cannot be paired, so an
update appears as a delete and an insert."""

RESERVED_KEYS: Mapping[str, tuple[str, ...]] = {
    "sqlite_schema": ("type", "name"),
    "sqlite_pragma": ("name",),
}
"""Keys of the tables in which a diff reports the schema and the numbers of the database header. An
application cannot create tables with such names."""
RESERVED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "sqlite_schema": ("type", "name", "tbl_name", "sql"),
    "sqlite_pragma": ("name", "value"),
}
"""Columns of these tables."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of one table."""

    names: tuple[str, ...] = ()
    exact: frozenset[str] = frozenset()
    """Columns of keys and foreign keys. Their text names a row, so it always compares exactly."""
    booleans: frozenset[str] = frozenset()
    """Columns of a BOOLEAN type, in which SQLite stores 1 for true and 0 for false."""
    generated: frozenset[str] = frozenset()
    """Columns that SQLite computes from others."""


def primary_keys(schema_sql: str) -> Keys:
    """Return the primary key of every table that a schema creates.

    The key of a virtual table is its rowid.
    """
    with _created(schema_sql) as db:
        return {name: _key(db, name, kind) for name, kind in _tables(db)}


def read_columns(schema_sql: str) -> dict[str, Columns]:
    """Return the columns of every table that a schema creates."""
    with _created(schema_sql) as db:
        exact: dict[str, set[str]] = {name: set() for name, _ in _tables(db)}
        for name, kind in _tables(db):
            exact[name] |= set(_key(db, name, kind))
            # Columns of PRAGMA foreign_key_list: 2 table, 3 from, 4 to.
            for row in db.execute("SELECT * FROM pragma_foreign_key_list(?)", (name,)):
                exact[name].add(row[3])
                if row[2] in exact and row[4]:
                    exact[row[2]].add(row[4])
        return {name: _columns(db, name, exact[name]) for name, _ in _tables(db)}


def _created(schema_sql: str) -> contextlib.closing[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    db.executescript(schema_sql)
    return contextlib.closing(db)


def _tables(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return names and kinds of tables, without those of SQLite and of virtual tables."""
    return db.execute(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' "
        "AND type IN ('table', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()


def _key(db: sqlite3.Connection, table: str, kind: str) -> tuple[str, ...]:
    if kind == "virtual":
        return ("rowid",)
    # `pk` is the position in the primary key, from 1.
    rows = db.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)
    ).fetchall()
    return tuple(name for (name,) in rows)


def _columns(db: sqlite3.Connection, table: str, exact: set[str]) -> Columns:
    # Column `hidden` of PRAGMA table_xinfo: 1 hidden, 2 and 3 generated.
    rows = db.execute("SELECT name, type, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    return Columns(
        tuple(name for name, _, hidden in rows if hidden != 1),
        frozenset(exact),
        frozenset(name for name, kind, _ in rows if "BOOL" in kind.upper()),
        frozenset(name for name, _, hidden in rows if hidden in (2, 3)),
    )
