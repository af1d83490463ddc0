"""A session's tables: the image it starts from, and how they differ from it.

A diff looks at every user table, by value: numbers as SQLite compares them (1 = 1.0), text exactly. Left out: pairing rows by
primary key and volatile columns (`envgym/state.py`), views, virtual tables.
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
"""As it is, or packed for the wire."""
RowChanges = dict[str, dict[str, list[dict[str, Any]]]]


def prepare_image(
    schema_sql: str | None,
    seed_function: Callable[[sqlite3.Connection, int], Any] | None,
    seed: int,
) -> bytes:
    """A database file with the schema's tables, filled for `seed`; `Connection.deserialize` restores it in about 1 ms.

    Raises: AppError for a wrong schema and for a row that refers to one that is not there; else what the seed function does.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            db.executescript(
                "PRAGMA user_version = 0; VACUUM;" + (schema_sql or "")
            )  # an empty database has no image
        except sqlite3.Error as error:
            raise AppError(
                f"the schema is refused by SQLite {sqlite3.sqlite_version}: {error}"
            ) from None
        _tables(
            db.cursor(), "main"
        )  # learns the forms, for the diffs of all sessions that are forked from here
        db.row_factory = sqlite3.Row
        if seed_function is not None:
            seed_function(db, seed)
        db.commit()
        if lost := db.execute("PRAGMA foreign_key_check").fetchone():
            table, row, target, _ = lost
            raise AppError(
                f"state of seed {seed}: row {row} of table '{table}' refers to a row of '{target}' that is not there"
            )
        return db.serialize()


def image_hash(image: bytes) -> str:
    """Names the state that a session starts from: 16 hexadecimal digits, equal for equal tables.

    The first 100 bytes are left out: SQLite keeps a change counter and its own version there.
    """
    return hashlib.sha256(image[100:]).hexdigest()[:16]


def pack_image(image: bytes) -> str:
    """An image as it goes through the wire."""
    return base64.b64encode(zlib.compress(image, level=1)).decode()


def unpack_image(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


class Images(Generic[Image]):
    """The images of the seeds used last: a group of episodes starts from one seed, and pays for it once."""

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
    """Rows now there and not in the image `db` was made from, and the reverse, of each table that changed."""
    db.execute("ATTACH ':memory:' AS envgym_start")
    try:
        db.deserialize(image, name="envgym_start")
        return _changes(db, _touched(db, image))
    finally:
        db.execute("DETACH envgym_start")


def _touched(db: sqlite3.Connection, image: bytes) -> set[str] | None:
    """Tables that differ from the image in any page; None where SQLite does not tell whose a page is.

    A table's rows are a tree of pages. One that begins at the same page, and all of whose pages are the same bytes, holds the same
    rows; no query has to compare them. Source: https://sqlite.org/dbstat.html.
    """
    now = db.serialize()
    size = int.from_bytes(image[16:18], "big") or 1
    if db.in_transaction or now[16:18] != image[16:18] or size == 1:  # 1 means 65536
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
        # Rows pair by rowid above, so one that was deleted and put back stands on both sides; take those out again.
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
    """Columns that tell rows apart: the hidden rowid, or the primary key of a table WITHOUT ROWID."""


_forms: dict[str, _Form | None] = {}
"""Of each CREATE TABLE that was met; None for a virtual table and what belongs to one. Sessions inherit the agent's."""


def _tables(cursor: sqlite3.Cursor, schema: str) -> dict[str, _Form]:
    found = cursor.execute(
        f"SELECT name, sql FROM {schema}.sqlite_schema WHERE type = 'table'"
    ).fetchall()
    if any(sql not in _forms for _, sql in found):
        forms = _read_forms(cursor, schema)
        _forms.update({sql: forms.get(name) for name, sql in found})
    return {name: form for name, sql in found if (form := _forms[sql])}


def _read_forms(cursor: sqlite3.Cursor, schema: str) -> dict[str, _Form]:
    listed = cursor.execute(
        f"PRAGMA {schema}.table_list"
    ).fetchall()  # (schema, name, type, columns, without rowid, strict)
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
    """Rows of a table `here` that are not the same `there` (None: all rows)."""
    if table not in forms:
        return []
    select = f"SELECT a.* FROM {here}.{_q(table)} a"
    if there is None:
        return cursor.execute(select).fetchall()
    keys = [_q(key) for key in forms[table].keys]
    match = " AND ".join(f"a.{key} = b.{key}" for key in keys)
    # BINARY, or a column declared NOCASE would hide that "ann" became "Ann".
    differs = " OR ".join(
        f"a.{_q(column)} COLLATE BINARY IS NOT b.{_q(column)}" for column in forms[table].columns
    )
    join = f"LEFT JOIN {there}.{_q(table)} b ON {match} WHERE b.{keys[0]} IS NULL OR {differs}"
    return cursor.execute(f"{select} {join}").fetchall()


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _without(rows: list[tuple], others: list[tuple]) -> list[tuple]:
    """Multiset difference, in the order of `rows`."""
    left = Counter(others)
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
        else:
            kept.append(row)
    return kept


def _dicts(form: _Form | None, rows: list[tuple]) -> list[dict[str, Any]]:
    """Rows as JSON-ready dicts; a blob is written as SQL does, `x'00ff'`."""
    readable = (
        [f"x'{value.hex()}'" if isinstance(value, bytes) else value for value in row]
        for row in rows
    )
    return [dict(zip(form.columns, row, strict=True)) for row in readable] if form else []
