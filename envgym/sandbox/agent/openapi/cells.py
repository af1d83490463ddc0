"""Conversion between request values and table cells, default values, and paging."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from .document import snake
from .resources import LIMITS, Column

Row = dict[str, Any]


def page(given: Row) -> tuple[int, int]:
    """Return (limit, offset) in rows. A limit of -1 means no limit."""
    limit = next((int(value) for wire, value in given.items() if snake(wire) in LIMITS), -1)
    number = next((int(value) for wire, value in given.items() if snake(wire) == "page"), 1)
    offset = next((int(value) for wire, value in given.items() if snake(wire) == "offset"), 0)
    if limit < -1 or number < 1 or offset < 0:
        raise ValueError("a limit and an offset are 0 or more, a page is 1 or more")
    return limit, offset or max(0, limit) * (number - 1)


def filled(column: Column, now: str) -> Any:
    """Return the value of a column that the request does not set."""
    schema = column.schema
    if "default" in schema:
        return to_cell(schema["default"], column)
    if schema.get("format") in ("date-time", "date") and column.read_only:
        return now if schema["format"] == "date-time" else now[:10]
    if not column.required:
        return None
    if not column.read_only:
        raise ValueError(f"{column.name} is needed")
    if schema.get("enum"):
        return to_cell(schema["enum"][0], column)
    return {"TEXT": "", "JSON": "[]" if schema.get("type") == "array" else "{}"}.get(column.kind, 0)


def to_cell(value: Any, column: Column) -> Any:
    if value is None:
        return None
    if column.kind == "JSON" or isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return int(value) if isinstance(value, bool) else value


def from_cell(value: Any, column: Column) -> Any:
    if column.kind == "BOOLEAN" and value is not None:
        return bool(value)
    if column.kind == "JSON" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value  # A seed function may store plain text.
    return value


def rows_of(db: sqlite3.Connection, query: str, values: list[Any]) -> list[Row]:
    try:
        cursor = db.execute(query, values)
    except OverflowError:
        raise LookupError("a number is too large") from None
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, tuple(row), strict=True)) for row in cursor]
