"""State of one session: a private database, an optional work folder, and the tools that use them.

A call is one database transaction. Files written by a refused call are kept. An exception that
escapes a tool is a result too: the session goes on. The same class serves a forked child, an agent
with isolation `state`, and the host's own process (`backend: none`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .app import LoadedApp
from .deadlines import CallTimeout, Deadline
from .describe import RESERVED
from .errors import BoxError, missing_file_hint
from .file_tree import wipe
from .relay import Relay
from .tables import RowChanges, diff_tables, image_hash
from .tool_errors import is_refusal, place_of, refusal_text, short_text
from .work_folder import WorkFolder, read_files
from .write_watch import WatchedCursor, WriteWatch

OUTPUT_BYTES = 64 * 1024
ADVICE = (
    "Do not use BEGIN, COMMIT or executescript() in tools; db.commit() and `with db:` are fine."
)
FILE_PRAGMAS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = MEMORY",
    "synchronous = OFF",
    "cache_spill = OFF",
    "temp_store = MEMORY",
)
"""Settings of a database in a file: no journal and no temporary file on the disk, and nothing of a
call is written before it ends. The file lives no longer than its session.
"""


class Database(sqlite3.Connection):
    """Database of a session. Savepoints keep a tool's commit and rollback inside its call."""

    watch: WriteWatch | None = None

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or (WatchedCursor if self.watch else sqlite3.Cursor))

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self.cursor().execute(sql, *parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        return self.cursor().executemany(sql, parameters)

    def executescript(self, sql_script: str) -> sqlite3.Cursor:
        return self.cursor().executescript(sql_script)

    def begin_call(self) -> None:
        self.execute("SAVEPOINT envgym_call")
        self.execute("SAVEPOINT envgym_tool")

    def end_call(self, *, keep: bool) -> None:
        if not keep:
            self.execute("ROLLBACK TO envgym_call")
        self.execute("RELEASE envgym_call")

    def commit(self) -> None:
        self.execute("RELEASE envgym_tool")
        self.execute("SAVEPOINT envgym_tool")

    def rollback(self) -> None:
        self.execute("ROLLBACK TO envgym_tool")

    def __exit__(self, kind, value, trace) -> Literal[False]:
        self.rollback() if kind else self.commit()
        return False


@dataclass(frozen=True)
class _End:
    """End of a call: its result, a refusal, or a failure of the tool."""

    text: str
    ok: bool = True
    fault: str = ""
    """Failure of the tool with its place, for the author. Empty if there is none."""
    is_late: bool = False
    """Whether the time limit of the call was over."""


def _failed(what: str, place: str, *, is_late: bool = False) -> _End:
    return _End(f"the tool failed: {what}", False, f"{place}: {what}", is_late)


@functools.cache
def _injected(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in RESERVED if name in inspect.signature(function).parameters)


class Desk:
    """Session with a private database and files. For one thread at a time.

    Args:
        place: Empty private folder. Required if the app lays out files.
        database: File that holds the image and becomes the database. By default the database is in
            the memory of this process.
    """

    def __init__(
        self,
        app: LoadedApp,
        image: bytes,
        seed: int,
        *,
        output_bytes: int = OUTPUT_BYTES,
        fix_random: bool = True,
        place: str = "",
        database: str = "",
    ):
        self.app = app
        self.image = image
        self.seed = seed
        self.calls = 0
        self._is_stopped = False
        self.output_bytes = output_bytes
        self.fix_random = fix_random
        self.place = place
        self.work = WorkFolder(app.lay_out, place, seed) if app.lay_out else None
        self.state_hash = self.work.hash_with(image_hash(image)) if self.work else image_hash(image)
        self._relays: dict[str, Relay] = {}
        self.db = sqlite3.connect(
            database or ":memory:", factory=Database, isolation_level=None, check_same_thread=False
        )
        if not database:
            self.db.deserialize(image)
        for pragma in FILE_PRAGMAS if database else ():
            self.db.execute(f"PRAGMA {pragma}")
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA foreign_keys = ON")
        # A diff sees the main database only, and an attached file could lie anywhere.
        self.db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._watch = WriteWatch(self.db, app.watch, app.schema_sql or "") if app.watch else None
        self.db.watch = self._watch

    def call(
        self, tool: str, arguments: dict[str, Any], now: str, seconds: float | None = None
    ) -> dict[str, Any]:
        """Run a tool. If it refuses or fails, its changes to the tables are rolled back.

        Args:
            tool: Name of the tool.
            arguments: Its arguments.
            now: Virtual time.
            seconds: Time limit of the call. None if only the caller enforces one.

        Raises:
            BoxError: Kind `state_lost`, if the database cannot be used any more.
        """
        function = self.app.tools[tool]
        given = {"db": self.db, "now": now, "folder": self.work and self.work.path}
        given = {name: given[name] for name in _injected(function)}
        self.calls += 1
        if self.fix_random:
            # Members of a group that make the same calls must get the same results.
            random.seed(self.seed * 1_000_003 + self.calls)
        self._is_stopped = False
        started = time.perf_counter()
        deadline = Deadline(seconds, self.db)
        try:
            self.db.begin_call()
            with deadline:
                end = _End(_text(function(**arguments, **given)))
        except BaseException as error:
            deadline.disarm()
            is_late = deadline.is_over or self._is_stopped or isinstance(error, CallTimeout)
            end = self._late(error, tool, seconds) if is_late else self._raised(error, tool)
        spent = time.perf_counter() - started
        end = self._finish(tool, end)
        written = self._watch.drain() if self._watch else []
        return {
            "text": cut(end.text, self.output_bytes),
            "ok": end.ok,
            "seconds": spent,
            "fault": end.fault,
            "is_late": end.is_late,
            **({"writes": written} if written else {}),
        }

    def stop_call(self) -> None:
        """End the SQL statement of the running call, whose time is over. For another thread."""
        self._is_stopped = True
        self.db.interrupt()

    def _raised(self, error: BaseException, tool: str) -> _End:
        if is_refusal(error, self.app.root):
            return _End(refusal_text(error), ok=False)
        end = _failed(short_text(error), place_of(error, self.app.root, tool))
        return dataclasses.replace(end, fault=end.fault + missing_file_hint(error))

    def _late(self, error: BaseException, tool: str, seconds: float | None) -> _End:
        limit = "in time" if seconds is None else f"after {seconds:g} s"
        place = place_of(error, self.app.root, tool)
        return _failed(f"not done {limit}", place, is_late=True)

    def _finish(self, tool: str, end: _End) -> _End:
        """End the transaction of the call, and return its end, which may have changed.

        Raises:
            BoxError: Kind `state_lost`.
        """
        try:
            self._remove_hooks()
            self.db.row_factory = sqlite3.Row
            self.db.text_factory = str
            self.db.end_call(keep=end.ok)
            return end
        except sqlite3.Error as error:
            problem = error
        # BEGIN, COMMIT and `executescript` end our savepoint. The changes up to then remain.
        # A constraint that is checked at the end, or an open statement, needs a rollback.
        try:
            self._remove_hooks()
            if not self.db.in_transaction:
                self.db.execute("SELECT 1")
                text = "it ended the transaction that its call runs in"
                failed = _End(f"the tool failed: {text}", False, f"tool '{tool}': {text}. {ADVICE}")
                return failed if end.ok else end
            self.db.end_call(keep=False)
            return _failed(short_text(problem), f"tool '{tool}'") if end.ok else end
        except sqlite3.Error as error:
            raise BoxError(
                "state_lost", f"after a call of tool '{tool}' the database is lost: {error}"
            ) from None

    def _remove_hooks(self) -> None:
        """Remove hooks that code of a tool has left on the connection, but not our own."""
        self.db.set_progress_handler(None, 0)
        if self._watch:
            self._watch.guard_again()
        else:
            self.db.set_authorizer(None)

    def relay(self, name: str) -> Relay:
        """Return the session's process of an MCP server. It starts at the first request."""
        if name not in self._relays:
            server = next(server for server in self.app.servers if server["name"] == name)
            self._relays[name] = Relay(server, self.app.root, self.seed)
        return self._relays[name]

    def diff(self) -> RowChanges:
        """Return the rows added and removed in each changed table.

        Changed files are the table `files`. The process that runs the tools reads its own state
        here. With the other isolation levels a judge reads it (`fork/judge.py`).
        """
        return self.finish(keep_files=False)["changes"]

    def finish(self, *, keep_files: bool) -> dict[str, Any]:
        """Return the final changes, and the final files for a check if they are asked for."""
        with self._watch.paused() if self._watch else contextlib.nullcontext():
            changes = diff_tables(self.db, self.image)
        if self.work is None:
            return {"changes": changes, "tree": {}, "problem": ""}
        files = read_files(self.work.path)
        handed = files.hand_over() if keep_files else {"tree": {}, "problem": ""}
        return {"changes": changes | files.changes(self.work.start), **handed}

    def close(self) -> None:
        for relay in self._relays.values():
            relay.end()
        self.db.close()
        if self.work:
            wipe(self.place)


def cut(text: str, most: int) -> str:
    """Return at most `most` bytes of a tool's output, with a marker if it was cut."""
    if len(text) * 4 <= most:
        return text
    head = text[:most].encode("utf-8", "surrogatepass")
    if len(text) <= most and len(head) <= most:
        return text
    kept = head[:most].decode("utf-8", "ignore")
    return f"{kept}\n[output cut: the first {len(kept):,} of {len(text):,} characters are shown]"


def _text(value: Any) -> str:
    if value is None:
        return "Done."
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, sqlite3.Row):
        return dict(value)
    return str(value)
