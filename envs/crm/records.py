"""Helpers of the CRM's tools: paging, lookups and new ids. Uses only the standard library."""

from __future__ import annotations

import sqlite3

TABLE_OF = {
    "A": "accounts",
    "C": "contacts",
    "D": "deals",
    "K": "cases",
    "L": "leads",
    "P": "products",
    "Q": "quotes",
    "U": "users",
}
"""First letter of an id -> table, for records that can be opened."""
PAGE = 5
"""Number of rows per page of a search."""


def table_of(record: str) -> str:
    """Return the table of an id.

    Raises:
        ValueError: If no table has this letter.
    """
    if record[:1] not in TABLE_OF:
        raise ValueError(
            f"'{record}' is no id; ids look like A38, C417, D305, K290, L52, P24, Q811 or U17"
        )
    return TABLE_OF[record[0]]


def fetch(db: sqlite3.Connection, table: str, key: str) -> sqlite3.Row:
    """Return the row with this id.

    Raises:
        LookupError: If there is no such row.
    """
    row = db.execute(f"SELECT * FROM {table} WHERE id = ?", (key,)).fetchone()
    if row is None:
        raise LookupError(f"no {table.removesuffix('s')} has id '{key}'")
    return row


def insert(db: sqlite3.Connection, table: str, letter: str, **values) -> str:
    """Insert a row under the next free id and return the id."""
    highest = (
        db.execute(f"SELECT max(CAST(substr(id, 2) AS INTEGER)) FROM {table}").fetchone()[0] or 99
    )
    key = f"{letter}{highest + 1}"
    columns = ["id", *values]
    marks = ", ".join("?" * len(columns))
    db.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", (key, *values.values())
    )
    return key


def like(query: str) -> str:
    """Return a LIKE pattern for "contains"; wildcards of the query are escaped (ESCAPE '!')."""
    clean = " ".join(query.split())
    for sign in "!%_":
        clean = clean.replace(sign, "!" + sign)
    return f"%{clean}%"


def page_of(lines: list[str], page: int) -> str:
    """Return one page of lines; if there are more pages, a last line gives page and total."""
    if not lines:
        return "none found"
    pages = -(-len(lines) // PAGE)
    if not 1 <= page <= pages:
        raise ValueError(f"page {page} does not exist; there are {pages} pages")
    shown = "\n".join(lines[(page - 1) * PAGE : page * PAGE])
    return shown if pages == 1 else f"{shown}\n(page {page} of {pages}, {len(lines)} in all)"
