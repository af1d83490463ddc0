"""Simulated API server: CRUD operations of an OpenAPI document on a session's SQLite tables.

A missing row raises LookupError (404); invalid or conflicting input raises ValueError (400, 409,
422). New ids continue the highest existing one in the same format. Server-written columns get the
clock, the schema's default, or the first enum value. PUT resets omitted properties to their
defaults; PATCH changes only the given ones. Deleting a row deletes its nested rows and is refused
if other rows refer to it. Not supported: permissions, versions (ETag), computed fields; write such
an operation as a Python function with its name.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable
from typing import Any

from .cells import Row, filled, from_cell, page, rows_of, to_cell
from .crud import Api, Crud
from .ddl import quoted
from .document import Operation, snake
from .resources import COUNTS, SEARCHES, Column, Table, list_shape
from .schemas import Schema

CHANGED = ("updated", "modified", "changed")
"""Prefixes of read-only date columns that every update sets to the clock."""


def operation_function(api: Api, operation: Operation) -> Callable[..., Any]:
    """Return the operation as a tool function; `tool_schema` is its description."""
    request = _Request(api, operation, api.crud[operation.name])

    def function(db: sqlite3.Connection, now: str, **arguments: Any) -> Any:
        return request.answer(db, now, arguments)

    function.__name__ = operation.name
    function.tool_schema = operation.schema  # type: ignore[attr-defined]
    return function


class _Request:
    """Execute one operation on one table."""

    def __init__(self, api: Api, operation: Operation, crud: Crud):
        self.operation = operation
        self.crud = crud
        self.tables = api.tables
        self.table = api.tables[crud.steps[-1].table]
        self.body = {
            place.name: name
            for name, places in operation.places.items()
            for place in places
            if place.where == "body"
        }
        self.query = {
            place.name: name
            for name, places in operation.places.items()
            for place in places
            if place.where == "query"
        }

    def answer(self, db: sqlite3.Connection, now: str, arguments: Row) -> Any:
        scope = self._scope(db, arguments)
        sent = {column: arguments[name] for column, name in self.body.items() if name in arguments}
        if self.crud.kind == "list":
            return self._list(db, arguments, scope)
        if self.crud.kind == "create":
            return self._shown(self._create(db, now, sent | scope))
        row = self._row(
            db, self.table, arguments[self._argument(self.crud.steps[-1].parameter)], scope
        )
        if self.crud.kind == "get":
            return self._shown(row)
        if self.crud.kind == "delete":
            return self._delete(db, row)
        return self._shown(self._update(db, now, row, sent))

    def _argument(self, parameter: str | None) -> str:
        return self.operation.argument("path", parameter or "")

    def _scope(self, db: sqlite3.Connection, arguments: Row) -> Row:
        """Return the column and value that the parent path requires of a row.

        Raises:
            LookupError: If the parent row does not exist.
        """
        scope: Row = {}
        for step, following in zip(self.crud.steps, self.crud.steps[1:], strict=False):
            above = self._row(
                db, self.tables[step.table], arguments[self._argument(step.parameter)], scope
            )
            scope = {following.link or "": above[self.tables[step.table].key or ""]}
        return scope

    def _row(self, db: sqlite3.Connection, table: Table, key: Any, scope: Row) -> Row:
        wanted = {table.key or "": key} | scope
        where = " AND ".join(f"{quoted(column)} = ?" for column in wanted)
        found = rows_of(
            db, f"SELECT * FROM {quoted(table.name)} WHERE {where}", list(wanted.values())
        )
        if not found:
            above = "".join(f" with {column} {value!r}" for column, value in scope.items())
            raise LookupError(f"no {table.noun} {key!r}{above}")
        return found[0]

    # --- reading ---

    def _list(self, db: sqlite3.Connection, arguments: Row, scope: Row) -> Any:
        given = {
            wire: arguments.get(name, self._default(name)) for wire, name in self.query.items()
        }
        given = {wire: value for wire, value in given.items() if value is not None}
        conditions = [f"{quoted(column)} = ?" for column in scope]
        values = list(scope.values())
        for wire, value in given.items():
            if column := self.table.column(wire):
                several = [
                    to_cell(one, column) for one in (value if isinstance(value, list) else [value])
                ]
                conditions.append(f"{quoted(column.name)} IN ({', '.join('?' * len(several))})")
                values += several
            elif snake(wire) in SEARCHES:
                conditions.append(self._search())
                values += [str(value)] * self._search().count("?")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        total = rows_of(
            db, f"SELECT count(*) AS total FROM {quoted(self.table.name)}{where}", values
        )[0]["total"]
        limit, offset = page(given)
        query = (
            f"SELECT * FROM {quoted(self.table.name)}{where} "
            f"ORDER BY {self._order(given)} LIMIT {limit} OFFSET {offset}"
        )
        return self._listed(rows_of(db, query, values), total, given, offset)

    def _default(self, argument: str) -> Any:
        return self.operation.parameters["properties"][argument].get("default")

    def _search(self) -> str:
        text = [
            column.name
            for column in self.table.columns.values()
            if column.kind == "TEXT" and column.shown
        ]
        return f"({' OR '.join(f'instr(lower({quoted(name)}), lower(?))' for name in text) or '0'})"

    def _order(self, given: Row) -> str:
        wanted = str(given.get("sort", ""))
        column = self.table.column(wanted.lstrip("+-"))
        if wanted and column is None:
            raise ValueError(
                f"cannot sort by {wanted!r}; sort by {', '.join(self.table.columns)}, "
                "with - in front for descending"
            )
        return (
            f"{quoted(column.name)} {'DESC' if wanted.startswith('-') else 'ASC'}, rowid"
            if column
            else "rowid"
        )

    def _listed(self, rows: list[Row], total: int, given: Row, offset: int) -> Any:
        name, item = list_shape(self.operation.response) or (None, {})
        shown = [self._shaped(row, item) for row in rows]
        if name is None:
            return shown
        answer: Row = {}
        for key in (self.operation.response or {})["properties"]:
            if key == name:
                answer[key] = shown
            elif snake(key) in COUNTS:
                answer[key] = total
            elif snake(key) == "has_more":
                answer[key] = offset + len(rows) < total
            elif snake(key) in ("limit", "offset", "page", "page_size", "per_page"):
                answer[key] = given.get(key)
        return answer

    def _shown(self, row: Row) -> Any:
        """Return the row shaped by the operation's response schema.

        Returns `None` if the operation has no response schema.
        """
        response = self.operation.response
        return None if response is None else self._shaped(row, response)

    def _shaped(self, row: Row, schema: Schema) -> Row:
        names = [
            name
            for name in schema.get("properties", self.table.columns)
            if name in self.table.columns
        ]
        return {
            name: from_cell(row[name], self.table.columns[name])
            for name in names
            if self.table.columns[name].shown
        }

    # --- writing ---

    def _create(self, db: sqlite3.Connection, now: str, given: Row) -> Row:
        row = {}
        for column in self.table.columns.values():
            if column.name in given:
                row[column.name] = to_cell(given[column.name], column)
            elif column.name == self.table.key:
                row[column.name] = self._new_key(db, column)
            else:
                row[column.name] = filled(column, now)
        names = ", ".join(map(quoted, row))
        statement = (
            f"INSERT INTO {quoted(self.table.name)} ({names}) VALUES ({', '.join('?' * len(row))})"
        )
        self._write(db, statement, row, list(row.values()))
        if self.table.key is None:
            return row
        return self._row(db, self.table, row[self.table.key], {})

    def _new_key(self, db: sqlite3.Connection, column: Column) -> Any:
        """Return the next id. It depends on the rows only, so equal group members get equal ids."""
        name = quoted(column.name)
        if column.kind in ("INTEGER", "REAL"):
            return rows_of(
                db,
                f"SELECT coalesce(max({name}), 0) + 1 AS next FROM {quoted(self.table.name)}",
                [],
            )[0]["next"]
        known = [
            str(row["id"])
            for row in rows_of(db, f"SELECT {name} AS id FROM {quoted(self.table.name)}", [])
        ]
        if column.schema.get("format") == "uuid":
            return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.table.name}/{sorted(known)}"))
        parted = [
            match.groups()
            for id_ in known
            if (match := re.fullmatch(r"(.*?)(\d+)", id_, re.DOTALL))
        ]
        if not parted:
            return f"{self.table.name[:1].upper()}{len(known) + 1}"
        prefix, digits = max(parted, key=lambda pair: (int(pair[1]), pair[0]))
        return f"{prefix}{int(digits) + 1:0{len(digits)}d}"

    def _update(self, db: sqlite3.Connection, now: str, row: Row, sent: Row) -> Row:
        sent = {
            name: value
            for name, value in sent.items()
            if name != self.table.key or value != row[name]
        }
        if not sent:
            raise ValueError(f"nothing to change; takes {', '.join(self.body) or 'nothing'}")
        values = {name: to_cell(value, self.table.columns[name]) for name, value in sent.items()}
        dates = [
            name
            for name, column in self.table.columns.items()
            if column.read_only and snake(name).startswith(CHANGED)
        ]
        left = [
            name
            for name in self.body
            if self.crud.kind == "replace" and name not in (*sent, self.table.key)
        ]
        values |= {name: filled(self.table.columns[name], now) for name in (*left, *dates)}
        key = values.get(self.table.key or "", row[self.table.key or ""])
        marks = ", ".join(f"{quoted(name)} = ?" for name in values)
        statement = (
            f"UPDATE {quoted(self.table.name)} SET {marks} WHERE {quoted(self.table.key or '')} = ?"
        )
        self._write(db, statement, values, [*values.values(), row[self.table.key or ""]])
        return self._row(db, self.table, key, {})

    def _write(self, db: sqlite3.Connection, statement: str, row: Row, values: list[Any]) -> None:
        for name, value in row.items():
            target = self.table.columns[name].references
            if target and value is not None:
                self._row_must_be(db, self.tables[target], name, value)
        try:
            db.execute(statement, values)
        except sqlite3.IntegrityError as error:
            raise ValueError(self._told(error, row)) from None
        except OverflowError:
            raise ValueError(f"a number for {self.table.noun} is too large") from None

    def _row_must_be(self, db: sqlite3.Connection, target: Table, name: str, value: Any) -> None:
        if not rows_of(
            db, f"SELECT 1 FROM {quoted(target.name)} WHERE {quoted(target.key or '')} = ?", [value]
        ):
            raise ValueError(f"{name}: no {target.noun} {value!r}")

    def _told(self, error: sqlite3.IntegrityError, row: Row) -> str:
        text = str(error)
        if "UNIQUE" in text and self.table.key in row:
            return f"{self.table.noun} {row[self.table.key]!r} is there already"
        if missing := re.search(r"NOT NULL constraint failed: \w+\.(.+)", text):
            return f"{missing[1]} is needed"
        return f"{self.table.noun}: {text}"

    def _delete(self, db: sqlite3.Connection, row: Row) -> Any:
        key = row[self.table.key or ""]
        for table in self.tables.values():
            for column in table.columns.values():
                if column.references == self.table.name and not column.cascade:
                    self._nothing_refers(db, table, column, key)
        self._write(
            db,
            f"DELETE FROM {quoted(self.table.name)} WHERE {quoted(self.table.key or '')} = ?",
            {},
            [key],
        )
        return self._shown(row)

    def _nothing_refers(
        self, db: sqlite3.Connection, table: Table, column: Column, key: Any
    ) -> None:
        found = rows_of(
            db, f"SELECT * FROM {quoted(table.name)} WHERE {quoted(column.name)} = ?", [key]
        )
        if found:
            named = f" {found[0][table.key]!r}" if table.key else ""
            raise ValueError(f"{self.table.noun} {key!r} is in use by {table.noun}{named}")
