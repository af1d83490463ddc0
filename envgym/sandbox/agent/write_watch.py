"""Record of writes to watched tables, including those that are undone before the session ends.

Temporary triggers note each row of a watched table that is inserted, deleted or changed in value; a
savepoint that is rolled back removes its notes. Most sessions never write to a watched table, so
the triggers are set up late: an authorizer denies the first statement that may write to one, and
`WatchedCursor` sets up the triggers and runs it again. Virtual tables and the schema of watched
tables are compared after each call. Statements of tools cannot reach the notes, and a dropped
trigger counts as a write. So does a row that `INSERT OR REPLACE` replaces by an equal one.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .table_diff import quoted, schema_rows
from .virtual_tables import Row, is_virtual, virtual_rows

NOTES = "envgym_writes"
_OWN = "envgym_"
_HARMLESS = {
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_DROP_TEMP_TRIGGER,  # a missing trigger counts as a write
}
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_UNDOING = {sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_TRANSACTION}
"""Actions that may remove the triggers, if these were set up in the same transaction."""
_TRIGGERED = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger'"
_NO_ACTIONS = "('NO ACTION', 'RESTRICT')"
NEVER = (-1, -1)
"""Schema versions before the first ones."""
_EVENTS = ("INSERT", "DELETE", "UPDATE")
_GUARDED_PRAGMAS = {"writable_schema", "schema_version", "recursive_triggers"}


class WatchedCursor(sqlite3.Cursor):
    """Cursor of a watched connection, which sets up the triggers before they are needed."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return self._run(super().execute, sql, *parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return self._run(super().executemany, sql, parameters)

    def executescript(self, sql_script: str) -> sqlite3.Cursor:
        with self._watch.script():
            return super().executescript(sql_script)

    def _run(self, run: Callable[..., sqlite3.Cursor], *arguments: Any) -> sqlite3.Cursor:
        try:
            return run(*arguments)
        except sqlite3.DatabaseError:
            if not self._watch.is_needed:
                raise
        self._watch.set_up()
        return run(*arguments)

    @property
    def _watch(self) -> WriteWatch:
        return getattr(self.connection, "watch")  # noqa: B009 - unknown to the type of connections


class WriteWatch:
    """Watch on the tables of one connection whose names match patterns.

    Args:
        db: Connection of a session. Its cursors must be `WatchedCursor` objects.
        patterns: Names of tables, with wildcards as in `fnmatch`.
        schema_sql: Schema, for foreign keys of the watched tables.
    """

    def __init__(self, db: sqlite3.Connection, patterns: Sequence[str], schema_sql: str = ""):
        self._db = db
        self._leads_to_watched = referenced_tables(schema_sql, tuple(patterns))
        self.is_needed = False
        """Whether a statement was denied because it needs the triggers."""
        self._is_set_up = False
        self._was_set_up = False
        """Whether the triggers were set up by any call, also if that was undone."""
        self._in_script = False
        self._is_guarded = False
        self._patterns = tuple(patterns)
        self._busy = False
        self._probes = 0
        self._seen: tuple[int, tuple[int, int]] = (0, NEVER)
        # A statement that SQLite keeps prepared is not authorized again, so a tool must not be able
        # to send the same text.
        self._mark = f"/* {secrets.token_hex(8)} */ "
        with self._own_statements():
            self._query("PRAGMA temp_store = MEMORY")  # not possible within a transaction
        self.guard()

    def guard(self) -> None:
        """Authorize the statements of tools, after another authorizer was set or removed."""
        self._db.set_authorizer(self._authorize)

    def guard_again(self) -> None:
        """Authorize the statements of tools, if a tool has set or removed an authorizer.

        Setting it makes SQLite compile each statement anew, so a statement that SQLite has not
        seen yet shows first whether it is still in force.
        """
        self._is_guarded = False
        self._probes += 1
        with contextlib.suppress(sqlite3.DatabaseError):  # denied by an authorizer of the tool
            self._query(f"SELECT {self._probes}")
        if not self._is_guarded:
            self.guard()

    def set_up(self) -> None:
        """Set up the triggers, unless they exist."""
        self.is_needed = False
        with self._own_statements():
            if not self._has_notes():
                self._query(f"CREATE TEMP TABLE {NOTES} (name TEXT)")
                self._seen = (0, NEVER)
                self._start()
        self._is_set_up = True
        self._was_set_up = True

    @contextlib.contextmanager
    def script(self) -> Iterator[None]:
        """Run a script, whose first statement commits. A denial inside could not be repeated."""
        self.set_up()
        self._in_script = True
        try:
            yield
        finally:
            self._in_script = False

    def drain(self) -> list[str]:
        """Return the watched tables that were written to since the last call, sorted.

        Call it after the transaction of the call has ended.
        """
        self.is_needed = False
        if not self._was_set_up:
            return []
        with self._own_statements():
            # A refused call has removed what was set up in it.
            self._is_set_up = self._has_notes()
            if not self._is_set_up:
                return []
            version = self._version()
            if (self._db.total_changes, version) == self._seen:
                return []
            try:
                written = {name for (name,) in self._query(f"SELECT DISTINCT name FROM {NOTES}")}
                if version != self._seen[1]:
                    written |= self._changed_objects() | self._without_trigger()
                written |= self._changed_virtual_tables()
                self._query(f"DELETE FROM {NOTES}")
                self._start()
            except sqlite3.DatabaseError:  # made unreadable by the session's own statements
                return sorted(self._patterns)
        return sorted(written)

    def _has_notes(self) -> bool:
        query = f"SELECT 1 FROM temp.sqlite_schema WHERE name = '{NOTES}'"
        return self._query(query).fetchone() is not None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let statements of a diff pass unauthorized."""
        self._db.set_authorizer(None)
        try:
            yield
        finally:
            self.guard()

    def _start(self) -> None:
        """Set up the triggers, and remember the state from which the next call starts."""
        version = self._version()
        if version != self._seen[1]:
            self._objects = self._watched_objects()
            names = {name for kind, name, *_ in self._objects if kind == "table"}
            created = {name: sql for kind, name, _, sql in self._objects if kind == "table"}
            self._virtual = {name: sql or "" for name, sql in created.items() if is_virtual(sql)}
            self._tables = sorted(names - self._virtual.keys())
            for name in self._tables:
                self._set_triggers(name, again=self._seen[1] != NEVER)
        self._rows = self._virtual_rows()
        self._seen = (self._db.total_changes, self._version())

    def _needs_triggers(self, action: int, name: str) -> bool:
        """Return whether a statement may write to a watched table."""
        if action in (sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_TRIGGER):
            return True  # it may write to any table
        is_risky = name == "sqlite_master" or name in self._leads_to_watched
        return action in _WRITES and (is_risky or self._is_watched(name))

    def _set_triggers(self, table: str, *, again: bool) -> None:
        with contextlib.closing(self._query(f"SELECT * FROM main.{quoted(table)} LIMIT 0")) as rows:
            columns = [quoted(column[0]) for column in rows.description]
        # Without BINARY, a NOCASE column would hide a change from "ann" to "Ann".
        changed = " OR ".join(f"old.{c} COLLATE BINARY IS NOT new.{c}" for c in columns)
        for event in _EVENTS:
            condition = f"WHEN {changed}" if event == "UPDATE" else ""
            trigger = quoted(_trigger(event, table))
            if again:
                self._query(f"DROP TRIGGER IF EXISTS temp.{trigger}")
            self._query(
                f"CREATE TEMP TRIGGER {trigger} AFTER {event} ON main.{quoted(table)} {condition} "
                f"BEGIN INSERT INTO {NOTES} VALUES ({_literal(table)}); END"
            )

    def _changed_objects(self) -> set[str]:
        return {table for _, _, table, _ in self._watched_objects() ^ self._objects}

    def _watched_objects(self) -> set[tuple[str, str, str, str | None]]:
        rows = schema_rows(self._db)
        virtual = [name for kind, name, _, sql in rows if kind == "table" and is_virtual(sql)]
        parts = tuple(f"{name}_" for name in virtual)  # tables that a virtual table consists of
        return {row for row in rows if self._is_watched(row[2]) and not row[2].startswith(parts)}

    def _without_trigger(self) -> set[str]:
        query = "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger'"
        found = {name for (name,) in self._query(query)}
        return {
            table
            for table in self._tables
            if any(_trigger(event, table) not in found for event in _EVENTS)
        }

    def _changed_virtual_tables(self) -> set[str]:
        rows = self._virtual_rows()
        return {name for name in self._virtual if rows.get(name) != self._rows.get(name)}

    def _virtual_rows(self) -> dict[str, list[Row]]:
        if not self._virtual:
            return {}
        image = self._db.serialize()
        return {name: virtual_rows(image, name, sql) for name, sql in self._virtual.items()}

    def _version(self) -> tuple[int, int]:
        """Return a number for the schema and one for the temporary schema."""
        main, temp = (
            self._query(f"PRAGMA {schema}.schema_version").fetchone()[0]
            for schema in ("main", "temp")
        )
        return main, temp

    def _is_watched(self, table: str) -> bool:
        return _matches(table, self._patterns)

    def _query(self, statement: str) -> sqlite3.Cursor:
        cursor = self._db.cursor()
        cursor.row_factory = None
        return cursor.execute(self._mark + statement)

    @contextlib.contextmanager
    def _own_statements(self) -> Iterator[None]:
        self._busy = True
        text_factory, self._db.text_factory = self._db.text_factory, str
        try:
            yield
        finally:
            self._busy = False
            self._db.text_factory = text_factory

    def _authorize(
        self, action: int, one: str | None, two: str | None, _: str | None, source: str | None
    ) -> int:
        """Deny statements of tools that touch the notes or the triggers.

        Args:
            action: Code of the action.
            one: First name that the action is about.
            two: Second name.
            source: Trigger or view whose statement it is.
        """
        self._is_guarded = True
        if action in _HARMLESS or self._busy:
            return sqlite3.SQLITE_OK
        if action in _UNDOING:
            self._is_set_up &= self._in_script  # otherwise perhaps undone: `set_up` looks
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA:
            is_guarded = (one or "").lower() in _GUARDED_PRAGMAS and two is not None
            return sqlite3.SQLITE_DENY if is_guarded else sqlite3.SQLITE_OK
        if (source or "").lower().startswith(_OWN):
            return sqlite3.SQLITE_OK
        if not self._is_set_up and self._needs_triggers(action, one or ""):
            self.is_needed = True
            return sqlite3.SQLITE_DENY
        names = ((one or "").lower(), (two or "").lower())
        is_own = any(name.startswith(_OWN) for name in names)
        return sqlite3.SQLITE_DENY if is_own else sqlite3.SQLITE_OK


@functools.lru_cache(maxsize=64)
def referenced_tables(schema_sql: str, patterns: tuple[str, ...]) -> frozenset[str]:
    """Return the tables that lead to watched ones, directly or through others.

    A foreign key of a watched table changes its rows with theirs (`ON DELETE CASCADE`), or they
    have a trigger. SQLite does not authorize actions of foreign keys. A foreign key without an
    action changes nothing. Forked sessions inherit the agent's result.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema_sql)
        edges = db.execute(
            'SELECT s.name, f."table" FROM sqlite_schema s, pragma_foreign_key_list(s.name) f '
            "WHERE s.type = 'table' AND "
            f"(f.on_update NOT IN {_NO_ACTIONS} OR f.on_delete NOT IN {_NO_ACTIONS})"
        ).fetchall()
        found = {table for (table,) in db.execute(_TRIGGERED)}
    while more := {
        parent
        for child, parent in edges
        if (child in found or _matches(child, patterns)) and parent not in found
    }:
        found |= more
    return frozenset(found)


@functools.lru_cache(maxsize=1024)
def _matches(table: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(table, pattern) for pattern in patterns)


def _trigger(event: str, table: str) -> str:
    return f"{_OWN}{event.lower()}_{table}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
