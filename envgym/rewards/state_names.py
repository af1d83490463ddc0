"""Check that the patterns of `state:` name tables and columns that exist.

A misspelt name in `forbid` would protect nothing, and one in `volatile` would ignore nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from envgym.errors import SpecError, did_you_mean
from envgym.modules import load_object
from envgym.rewards.table_columns import RESERVED_COLUMNS
from envgym.sandbox.agent.work_folder import TABLE as FILES
from envgym.spec.environment import EnvSpec
from envgym.spec.tool_sources import McpTools

Tables = Mapping[str, Sequence[str]]
"""Columns by table."""
FILE_COLUMNS = ("path", "kind", "mode", "text")


def check_names(spec: EnvSpec, schema_sql: str) -> None:
    """Raise SpecError if a pattern matches no table or column of the initial state.

    Tables of an MCP server are unknown until it runs; `envgym check` compares them.
    """
    if any(isinstance(source, McpTools) for source in spec.tools):
        return
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema_sql)
        problems = list(unmatched(spec, tables_in(db)))
        if problems and spec.state.seed:
            # The seed function may create tables too. It is slow, so it only confirms an error. If
            # it fails, the first session reports that.
            with contextlib.suppress(Exception):
                load_object(spec.state.seed, spec.root)(db, 0)
            problems = list(unmatched(spec, tables_in(db)))
    if problems:
        raise SpecError("\n".join(f"{spec.path}: {problem}" for problem in problems))


def tables_in(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the columns of each table of a database."""
    names = db.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    return {
        name: tuple(
            column for (column,) in db.execute("SELECT name FROM pragma_table_xinfo(?)", (name,))
        )
        for (name,) in names
    }


def unmatched(spec: EnvSpec, tables: Tables) -> Iterator[str]:
    """Yield a problem for each pattern that matches no table or column."""
    state = spec.state
    files: Tables = {FILES: FILE_COLUMNS} if state.files else {}
    known: Tables = {**tables, **files, **RESERVED_COLUMNS}
    own = [name for name in known if name not in RESERVED_COLUMNS]
    columns = [f"{table}.{column}" for table in known for column in known[table]]
    for key, patterns in (("forbid", state.forbid), ("allow", state.allow)):
        for pattern in patterns:
            if not any(fnmatchcase(table, pattern) for table in known):
                hint = did_you_mean(pattern, own)
                listed = ", ".join(own) or "none"
                yield f"state.{key}: no table matches '{pattern}'{hint}; tables: {listed}"
    for key, patterns in (("volatile", state.volatile), ("free_text", state.free_text)):
        for pattern in patterns:
            if not any(fnmatchcase(column, pattern) for column in columns):
                hint = _column_hint(pattern, known, own)
                yield f"state.{key}: no column matches '{pattern}'{hint}"


def _column_hint(pattern: str, known: Tables, own: Sequence[str]) -> str:
    table, _, column = pattern.partition(".")
    if table in known and column:
        hint = did_you_mean(column, known[table])
        return f"{hint}; columns of {table}: {', '.join(known[table])}"
    return f"{did_you_mean(table, own)}. Write table.column; tables: {', '.join(own) or 'none'}"
