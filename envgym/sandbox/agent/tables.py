"""Database images of start states, and diffs between an image and the current tables.

A diff compares the rows of every user table by value: numbers as SQLite does (1 = 1.0), text
exactly. Views and virtual tables are ignored. The host pairs changed rows by primary key and skips
volatile columns.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sqlite3
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import AppError

Image = TypeVar("Image", bytes, str)
"""Serialized database: bytes, or text when packed for the protocol."""
RowChanges = dict[str, dict[str, list[dict[str, Any]]]]


def prepare_image(
    schema_sql: str | None,
    seed_function: Callable[[sqlite3.Connection, int], Any] | None,
    seed: int,
) -> bytes:
    """Build a serialized database with the schema's tables, filled for `seed`.

    `Connection.deserialize` restores it in about 1 ms. Exceptions of the seed function are not
    caught.

    Raises:
        AppError: If SQLite rejects the schema, or a row refers to a missing row.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            # An empty database cannot be serialized; VACUUM writes its header.
            db.executescript("PRAGMA user_version = 0; VACUUM;" + (schema_sql or ""))
        except sqlite3.Error as error:
            raise AppError(
                f"the schema is refused by SQLite {sqlite3.sqlite_version}: {error}"
            ) from None
        # Fills the cache of table layouts, which all forked sessions inherit for their diffs.
        _tables(db.cursor(), "main")
        db.row_factory = sqlite3.Row
        if seed_function is not None:
            seed_function(db, seed)
        db.commit()
        if lost := db.execute("PRAGMA foreign_key_check").fetchone():
            table, row, target, _ = lost
            raise AppError(
                f"state of seed {seed}: row {row} of table '{table}' refers to a missing row "
                f"of '{target}'"
            )
        return db.serialize()


def image_hash(image: bytes) -> str:
    """Return a hash of the start state: 16 hexadecimal digits, equal for equal tables.

    Skips the first 100 bytes, in which SQLite keeps a change counter and its version.
    """
    return hashlib.sha256(image[100:]).hexdigest()[:16]


def pack_image(image: bytes) -> str:
    """Encode an image as text for the protocol."""
    return base64.b64encode(zlib.compress(image, level=1)).decode()


def unpack_image(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


class Images(Generic[Image]):
    """LRU cache of images by seed: the episodes of a group share one seed and one build."""

    def __init__(self, *, most: int = 64, most_bytes: int = 64 * 2**20):
        self.most = most
        self.most_bytes = most_bytes
        self._kept: OrderedDict[int, Image] = OrderedDict()

    def get(self, seed: int) -> Image | None:
        if seed in self._kept:
            self._kept.move_to_end(seed)
        return self._kept.get(seed)

    def put(self, seed: int, image: Image) -> Image:
        self._kept[seed] = image
        while len(self._kept) > 1 and (
            len(self._kept) > self.most or sum(map(len, self._kept.values())) > self.most_bytes
        ):
            self._kept.popitem(last=False)
        return image


def diff_tables(db: sqlite3.Connection, image: bytes) -> RowChanges:
    """Return the rows added to and removed from each changed table since `image`."""
    db.execute("ATTACH ':memory:' AS envgym_start")
    try:
        db.deserialize(image, name="envgym_start")
        return _changes(db, _touched(db, image))
    finally:
        db.execute("DETACH envgym_start")


def _touched(db: sqlite3.Connection, image: bytes) -> set[str] | None:
    """Return the tables that may differ from the image.

    Returns `None` if SQLite cannot map pages to tables. The rows of a table are a tree of pages. If
    it starts at the same page and all its pages have equal bytes, its rows are equal and need no
    query.

    References:
        https://sqlite.org/dbstat.html
    """
    now = db.serialize()
    size = int.from_bytes(image[16:18], "big") or 1
    # Bytes 16 and 17 of the header are the page size in bytes; 1 means 65536.
    if db.in_transaction or now[16:18] != image[16:18] or size == 1:
        return None
    cursor = db.cursor()
    cursor.row_factory = None
    try:
        pages = cursor.execute("SELECT name, pageno FROM dbstat('main')").fetchall()
    except sqlite3.OperationalError:
        return None
    roots = "SELECT name, rootpage FROM {}.sqlite_schema WHERE type = 'table'"
    moved = set(cursor.execute(roots.format("main"))) ^ set(
        cursor.execute(roots.format("envgym_start"))
    )
    differ = {
        name
        for name, page in pages
        if now[(page - 1) * size : page * size] != image[(page - 1) * size : page * size]
    }
    return differ | {name for name, _ in moved}


def _changes(db: sqlite3.Connection, touched: set[str] | None) -> RowChanges:
    cursor = db.cursor()
    cursor.row_factory = None
    now = _tables(cursor, "main")
    start = _tables(cursor, "envgym_start")
    changes: RowChanges = {}
    for table in sorted(now.keys() | start.keys()):
        same_form = now.get(table) == start.get(table)
        if same_form and touched is not None and table not in touched:
            continue
        added = _rows(cursor, table, "main", now, "envgym_start" if same_form else None)
        removed = _rows(cursor, table, "envgym_start", start, "main" if same_form else None)
        # Rows were paired by rowid, so a row that was deleted and inserted again is in both lists.
        added, removed = _without(added, removed), _without(removed, added)
        if added or removed:
            changes[table] = {
                "added": _dicts(now.get(table), added),
                "removed": _dicts(start.get(table), removed),
            }
    return changes


@dataclass(frozen=True)
class _Form:
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    """Columns that identify a row: the hidden rowid, or the primary key if there is no rowid."""


_forms: dict[str, _Form | None] = {}
"""Table layouts by CREATE TABLE text. `None` for virtual tables and their shadow tables. Forked
sessions inherit the agent's entries.
"""


def _tables(cursor: sqlite3.Cursor, schema: str) -> dict[str, _Form]:
    found = cursor.execute(
        f"SELECT name, sql FROM {schema}.sqlite_schema WHERE type = 'table'"
    ).fetchall()
    if any(sql not in _forms for _, sql in found):
        forms = _read_forms(cursor, schema)
        _forms.update({sql: forms.get(name) for name, sql in found})
    return {name: form for name, sql in found if (form := _forms[sql])}


def _read_forms(cursor: sqlite3.Cursor, schema: str) -> dict[str, _Form]:
    # Columns: schema, name, type, columns, without rowid, strict.
    listed = cursor.execute(f"PRAGMA {schema}.table_list").fetchall()
    forms = {}
    for _, name, kind, _, without_rowid, _ in [row for row in listed if row[0] == schema]:
        if kind == "table" and not name.startswith("sqlite_"):
            columns = tuple(
                column[0]
                for column in cursor.execute(
                    f"SELECT * FROM {schema}.{_q(name)} LIMIT 0"
                ).description
            )
            info = cursor.execute(f"PRAGMA {schema}.table_info({_q(name)})").fetchall()
            rowid = next(word for word in ("rowid", "_rowid_", "oid") if word not in columns)
            forms[name] = _Form(
                columns,
                tuple(column[1] for column in info if column[5]) if without_rowid else (rowid,),
            )
    return forms


def _rows(
    cursor: sqlite3.Cursor, table: str, here: str, forms: dict[str, _Form], there: str | None
) -> list[tuple]:
    """Return rows of a table in `here` that differ from `there`; all rows if `there` is `None`."""
    if table not in forms:
        return []
    select = f"SELECT a.* FROM {here}.{_q(table)} a"
    if there is None:
        return cursor.execute(select).fetchall()
    keys = [_q(key) for key in forms[table].keys]
    match = " AND ".join(f"a.{key} = b.{key}" for key in keys)
    # Without BINARY, a NOCASE column would hide a change from "ann" to "Ann".
    differs = " OR ".join(
        f"a.{_q(column)} COLLATE BINARY IS NOT b.{_q(column)}" for column in forms[table].columns
    )
    join = f"LEFT JOIN {there}.{_q(table)} b ON {match} WHERE b.{keys[0]} IS NULL OR {differs}"
    return cursor.execute(f"{select} {join}").fetchall()


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _without(rows: list[tuple], others: list[tuple]) -> list[tuple]:
    """Return the multiset difference, in the order of `rows`."""
    left = Counter(others)
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
        else:
            kept.append(row)
    return kept


def _dicts(form: _Form | None, rows: list[tuple]) -> list[dict[str, Any]]:
    """Convert rows to JSON-ready dicts. Blobs are written as SQL literals: `x'00ff'`."""
    readable = (
        [f"x'{value.hex()}'" if isinstance(value, bytes) else value for value in row]
        for row in rows
    )
    return [dict(zip(form.columns, row, strict=True)) for row in readable] if form else []
