"""SQL for the tables of an OpenAPI document: types, keys, enums, bounds and references."""

from __future__ import annotations

from typing import Any

from .crud import Api
from .resources import Column, Table


def schema_sql(api: Api) -> str:
    """Return the CREATE TABLE statements. Existing tables are kept as they are."""
    return "".join(_create(table, api.tables) for table in api.tables.values())


def _create(table: Table, tables: dict[str, Table]) -> str:
    lines = [_column_sql(column, table, tables) for column in table.columns.values()]
    body = ",\n    ".join(lines)
    return f"CREATE TABLE IF NOT EXISTS {quoted(table.name)} (\n    {body}\n);\n"


def _column_sql(column: Column, table: Table, tables: dict[str, Table]) -> str:
    name = quoted(column.name)
    words = [name, {"BOOLEAN": "INTEGER", "JSON": "TEXT"}.get(column.kind, column.kind)]
    if column.name == table.key:
        words.append("PRIMARY KEY NOT NULL" if column.kind != "INTEGER" else "PRIMARY KEY")
    elif column.required:
        words.append("NOT NULL")
    if check := _check(column, name):
        words.append(f"CHECK ({check})")
    if column.references and (key := tables[column.references].key):
        words.append(
            f"REFERENCES {quoted(column.references)} ({quoted(key)})"
            + (" ON DELETE CASCADE" if column.cascade else "")
        )
    return " ".join(words)


def _check(column: Column, name: str) -> str:
    schema = column.schema
    if column.kind == "BOOLEAN":
        return f"{name} IN (0, 1)"
    if column.kind == "JSON":
        return ""
    if all(isinstance(value, str | int | float | None) for value in schema.get("enum", [[]])):
        return (
            f"{name} IN ("
            f"{', '.join(_literal(value) for value in schema['enum'] if value is not None)})"
        )
    bounds = (
        ("minimum", ">="),
        ("maximum", "<="),
        ("exclusiveMinimum", ">"),
        ("exclusiveMaximum", "<"),
    )
    numeric = column.kind in ("INTEGER", "REAL")
    return " AND ".join(
        f"{name} {sign} {schema[key]}"
        for key, sign in bounds
        if numeric and isinstance(schema.get(key), int | float)
    )


def _literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
