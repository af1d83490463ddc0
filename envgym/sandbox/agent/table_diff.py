"""Diff between a database image and the current tables.

A diff compares the schema and the rows of every table by value: numbers as SQLite does (1 = 1.0),
text and blobs exactly. Schema objects are rows of `sqlite_schema`, and numbers of the database
header rows of `sqlite_pragma`. SQLite's own counters and statistics (`sqlite_sequence`,
`sqlite_stat1`) and temporary tables are left out. The host pairs changed rows by primary key and
skips volatile columns.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .virtual_tables import Row, is_virtual, virtual_rows

RowChanges = dict[str, dict[str, list[Row]]]
HEADER_NUMBERS = {"user_version": 60, "application_id": 68}
"""Offset in the database header of each number that an application may set."""
COMPARED = (slice(0, 24), slice(28, 92), slice(100, None))
"""Bytes of a database without SQLite's change counters and version."""
UNREADABLE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Error codes of a database that statements of the session have made unreadable."""
MOST_JOINED = 200
"""Maximum number of columns that are compared by a join; SQLite limits the depth of an expression.
"""


def diff_tables(db: sqlite3.Connection, image: bytes, *, now: bytes | None = None) -> RowChanges:
    """Return the rows added to and removed from each changed table since `image`.

    A database that can no longer be read has one added row of `sqlite_schema`, with the error.

    Args:
        db: Connection whose database `main` is compared.
        image: Database at the start.
        now: Database of `db` as bytes, if the caller has them.
    """
    now = db.serialize() if now is None else now
    if all(now[part] == image[part] for part in COMPARED) and not db.in_transaction:
        return {}
    try:
        try:
            return _compared(db, now, image, text_factory=str)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            # Text that is not UTF-8 must neither raise nor equal other text.
            return _compared(db, now, image, text_factory=_lenient)
    except sqlite3.DatabaseError as error:
        if not _is_unreadable(error):
            raise
        row = {"type": "unreadable", "name": "main", "tbl_name": "main", "sql": str(error)}
        return {"sqlite_schema": {"added": [row], "removed": []}}


def _compared(
    db: sqlite3.Connection, now: bytes, image: bytes, *, text_factory: Callable[[bytes], str]
) -> RowChanges:
    with _prepared(db, text_factory) as cursor:
        cursor.execute("ATTACH ':memory:' AS envgym_start")
        try:
            db.deserialize(image, name="envgym_start")
            return _Diff(cursor, now, image).changes() | _header_changes(now, image)
        finally:
            cursor.execute("DETACH envgym_start")


def _lenient(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _prepared(
    db: sqlite3.Connection, text_factory: Callable[[bytes], str]
) -> Iterator[sqlite3.Cursor]:
    """Yield a cursor that does not depend on the settings that tools gave to the connection."""
    own_factory, db.text_factory = db.text_factory, text_factory
    attached = db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 10)
    try:
        cursor = sqlite3.Cursor(db)
        cursor.row_factory = None
        yield cursor
    finally:
        db.text_factory = own_factory
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, attached)


def _is_unreadable(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in UNREADABLE


def _header_changes(now: bytes, start: bytes) -> RowChanges:
    """Return the numbers of the header that changed, as rows of `sqlite_pragma`."""
    added, removed = [], []
    for name, offset in HEADER_NUMBERS.items():
        new, old = (
            int.from_bytes(image[offset : offset + 4], "big", signed=True) for image in (now, start)
        )
        if new != old:
            added.append({"name": name, "value": new})
            removed.append({"name": name, "value": old})
    return {"sqlite_pragma": {"added": added, "removed": removed}} if added else {}


class _Object(NamedTuple):
    """Table, index, view or trigger of a schema."""

    kind: str
    name: str
    table: str
    root_page: int
    sql: str | None


@dataclass(frozen=True)
class _Form:
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    """Columns that identify a row: the hidden rowid, or the primary key if there is no rowid. Empty
    if columns of the table hide all names of the rowid."""


Forms = dict[str, _Form | None]
"""Layouts by table; `None` for a virtual table. Tables that belong to a virtual table are left out.
"""
_known_forms: dict[tuple[tuple[str, str | None], ...], Forms] = {}
"""Layouts by the CREATE TABLE texts of a whole schema. Forked sessions inherit the agent's entries.
"""


def remember_forms(db: sqlite3.Connection) -> None:
    """Read the layouts of all tables, so that forked sessions need not do it."""
    cursor = db.cursor()
    _forms(cursor, "main", _schema(cursor, "main"))


def schema_rows(db: sqlite3.Connection) -> list[tuple[str, str, str, str | None]]:
    """Return type, name, table and SQL of the objects that statements of an app created."""
    cursor = db.cursor()
    cursor.row_factory = None
    objects = _schema(cursor, "main")
    return [(each.kind, each.name, each.table, each.sql) for each in objects]


def _schema(cursor: sqlite3.Cursor, schema: str) -> list[_Object]:
    rows = cursor.execute(
        f"SELECT type, name, tbl_name, rootpage, sql FROM {schema}.sqlite_schema"
    ).fetchall()
    own = ("sqlite_sequence", "sqlite_stat", "sqlite_autoindex_")
    return [_Object._make(row) for row in rows if not str(row[1]).startswith(own)]


def _forms(cursor: sqlite3.Cursor, schema: str, objects: list[_Object]) -> Forms:
    """Return the layouts of the tables of a schema."""
    tables = tuple((each.name, each.sql) for each in objects if each.kind == "table")
    if tables not in _known_forms:
        if len(_known_forms) > 64:
            _known_forms.clear()
        _known_forms[tables] = _read_forms(cursor, schema, tables)
    return _known_forms[tables]


def _read_forms(
    cursor: sqlite3.Cursor, schema: str, tables: tuple[tuple[str, str | None], ...]
) -> Forms:
    # Columns: schema, name, type, columns, without rowid, strict.
    listed = cursor.execute(f"PRAGMA {schema}.table_list").fetchall()
    kinds = {row[1]: (row[2], row[4]) for row in listed if row[0] == schema}
    forms: Forms = {}
    for name, sql in tables:
        kind, without_rowid = kinds.get(name, ("table", 0))
        if is_virtual(sql):
            forms[name] = None
        elif kind != "shadow":
            forms[name] = _read_form(cursor, schema, name, bool(without_rowid))
    return forms


def _read_form(cursor: sqlite3.Cursor, schema: str, name: str, without_rowid: bool) -> _Form:
    described = cursor.execute(f"SELECT * FROM {schema}.{quoted(name)} LIMIT 0").description
    columns = tuple(column[0] for column in described)
    info = cursor.execute(f"PRAGMA {schema}.table_info({quoted(name)})").fetchall()
    if without_rowid:
        return _Form(columns, tuple(column[1] for column in info if column[5]))
    taken = {column.lower() for column in columns}
    rowid = next((word for word in ("rowid", "_rowid_", "oid") if word not in taken), None)
    return _Form(columns, (rowid,) if rowid else ())


class _Diff:
    """Comparison of the schemas `main` and `envgym_start` of one connection."""

    def __init__(self, cursor: sqlite3.Cursor, now: bytes, image: bytes):
        self.cursor = cursor
        self.images = {"main": now, "envgym_start": image}
        self.objects = {schema: _schema(cursor, schema) for schema in self.images}

    def changes(self) -> RowChanges:
        changes = self._schema_changes()
        touched = self._touched()
        if touched is not None and not touched and not changes:
            return {}
        now, start = (_forms(self.cursor, name, self.objects[name]) for name in self.images)
        for table in sorted(now.keys() | start.keys()):
            same_form = table in now and table in start and now[table] == start[table]
            if same_form and touched is not None and not _is_touched(table, now[table], touched):
                continue
            found = {
                name: self._rows(table, name, forms, same_form)
                for name, forms in (("main", now), ("envgym_start", start))
            }
            # Rows were paired by rowid, so a row that was deleted and inserted again is in both.
            added = _without(found["main"], found["envgym_start"])
            removed = _without(found["envgym_start"], found["main"])
            if added or removed:
                changes[table] = {"added": _sendable(added), "removed": _sendable(removed)}
        return changes

    def _schema_changes(self) -> RowChanges:
        now, start = (
            [(each.kind, each.name, each.table, each.sql) for each in self.objects[name]]
            for name in self.images
        )
        if now == start:
            return {}
        added = _objects_as_rows(_without(now, start))
        removed = _objects_as_rows(_without(start, now))
        return {"sqlite_schema": {"added": added, "removed": removed}} if added or removed else {}

    def _touched(self) -> set[str] | None:
        """Return the tables and indexes that may differ from the image.

        Returns `None` if SQLite cannot map pages to tables. The rows of a table are a tree of
        pages. If it starts at the same page and all its pages have equal bytes, its rows are equal
        and need no query.

        References:
            https://sqlite.org/dbstat.html
        """
        now, image = self.images["main"], self.images["envgym_start"]
        size = int.from_bytes(image[16:18], "big") or 1
        # Bytes 16 and 17 of the header are the page size in bytes; 1 means 65536.
        if self.cursor.connection.in_transaction or now[16:18] != image[16:18] or size == 1:
            return None
        try:
            pages = self.cursor.execute("SELECT name, pageno FROM dbstat('main')").fetchall()
        except sqlite3.OperationalError:
            return None
        roots = [
            {(each.name, each.root_page) for each in self.objects[name] if each.kind == "table"}
            for name in self.images
        ]
        differ = {
            name
            for name, page in pages
            if now[(page - 1) * size : page * size] != image[(page - 1) * size : page * size]
        }
        return differ | {name for name, _ in roots[0] ^ roots[1]}

    def _rows(self, table: str, here: str, forms: Forms, same_form: bool) -> list[Any]:
        """Return rows of a table in `here`: those that differ from the other schema, or all."""
        if table not in forms:
            return []
        form = forms[table]
        try:
            if form is None:
                sql = next(each.sql for each in self.objects[here] if each.name == table)
                return list(map(_hashable, virtual_rows(self.images[here], table, sql or "")))
            there = "main" if here != "main" else "envgym_start"
            rows = self._differing(table, here, form, there if same_form else None)
        except sqlite3.DatabaseError as error:
            if not _is_unreadable(error):
                raise
            return [_hashable({"unreadable": f"{here}: {error}"})]
        return [tuple(zip(form.columns, row, strict=True)) for row in rows]

    def _differing(self, table: str, here: str, form: _Form, there: str | None) -> list[tuple]:
        select = f"SELECT a.* FROM {here}.{quoted(table)} a"
        if there is None or not form.keys or len(form.columns) > MOST_JOINED:
            return self.cursor.execute(select).fetchall()
        keys = [quoted(key) for key in form.keys]
        match = " AND ".join(f"a.{key} = b.{key}" for key in keys)
        # Without BINARY, a NOCASE column would hide a change from "ann" to "Ann".
        differs = " OR ".join(
            f"a.{quoted(column)} COLLATE BINARY IS NOT b.{quoted(column)}"
            for column in form.columns
        )
        join = (
            f"LEFT JOIN {there}.{quoted(table)} b ON {match} WHERE b.{keys[0]} IS NULL OR {differs}"
        )
        return self.cursor.execute(f"{select} {join}").fetchall()


def _objects_as_rows(objects: list[tuple[str, str, str, str | None]]) -> list[Row]:
    return [
        {"type": kind, "name": name, "tbl_name": table, "sql": sql}
        for kind, name, table, sql in objects
    ]


def _is_touched(table: str, form: _Form | None, touched: set[str]) -> bool:
    """Return whether pages of a table differ. A virtual table consists of others."""
    if form is None:
        return any(name.startswith(f"{table}_") for name in touched)
    return table in touched


def _hashable(row: Row) -> tuple[tuple[str, Any], ...]:
    return tuple(row.items())


def _sendable(rows: list[tuple[tuple[str, Any], ...]]) -> list[Row]:
    """Convert rows to JSON-ready dicts. A blob is `{"blob": "00ff"}`, unlike any text."""
    return [
        {
            column: {"blob": value.hex()} if isinstance(value, bytes) else value
            for column, value in row
        }
        for row in rows
    ]


def quoted(name: str) -> str:
    """Return a name as SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


def _without(rows: list[Any], others: list[Any]) -> list[Any]:
    """Return the multiset difference, in the order of `rows`."""
    left = Counter(others)
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
        else:
            kept.append(row)
    return kept
