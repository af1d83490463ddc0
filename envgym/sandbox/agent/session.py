"""State of one session: a private database, an optional work folder, and the tools that use them.

A call is one database transaction. Files written by a refused call are kept. The same class serves
a forked child, an agent with isolation `state`, and the host's own process (`backend: none`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Literal

from .app import LoadedApp
from .describe import RESERVED
from .errors import BoxError, tail_of
from .file_tree import wipe
from .relay import Relay
from .tables import RowChanges, diff_tables, image_hash
from .work_folder import WorkFolder, read_files
from .write_watch import WriteWatch

OUTPUT_BYTES = 64 * 1024
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
        self._watch = WriteWatch(self.db, app.watch) if app.watch else None

    def call(self, tool: str, arguments: dict[str, Any], now: str) -> dict[str, Any]:
        """Run a tool. If it refuses or crashes, its changes to the tables are rolled back.

        Raises:
            BoxError: Kind `tool_crashed`.
        """
        function = self.app.tools[tool]
        given = {"db": self.db, "now": now, "folder": self.work and self.work.path}
        self.calls += 1
        if self.fix_random:
            # Members of a group that make the same calls must get the same results.
            random.seed(self.seed * 1_000_003 + self.calls)
        ok = True
        started = time.perf_counter()
        try:
            self.db.begin_call()
            try:
                text = _text(
                    function(**arguments, **{name: given[name] for name in _injected(function)})
                )
            except (ValueError, LookupError) as refusal:
                ok = False
                text = _refusal(refusal)
            seconds = time.perf_counter() - started
            self._finish(tool, keep=ok)
        except BaseException as crash:
            with contextlib.suppress(sqlite3.Error):
                self.db.end_call(keep=False)
            raise BoxError(
                "tool_crashed", str(crash) if isinstance(crash, BoxError) else tail_of(crash)
            ) from None
        result = {"text": cut(text, self.output_bytes), "ok": ok, "seconds": seconds}
        written = self._watch.drain() if self._watch else []
        return result | ({"writes": written} if written else {})

    def _finish(self, tool: str, *, keep: bool) -> None:
        try:
            self.db.end_call(keep=keep)
        except sqlite3.OperationalError:
            # BEGIN, COMMIT and `executescript` end our savepoint, so a refused call could not be
            # rolled back.
            advice = (
                "Do not use BEGIN, COMMIT or executescript() in tools; db.commit() and `with db:` "
                "are fine."
            )
            raise BoxError(
                "tool_crashed",
                f"tool '{tool}' ended the transaction that its call runs in. {advice}",
            ) from None

    def relay(self, name: str) -> Relay:
        """Return the session's process of an MCP server. It starts at the first request."""
        if name not in self._relays:
            server = next(server for server in self.app.servers if server["name"] == name)
            self._relays[name] = Relay(server, self.app.root, self.seed)
        return self._relays[name]

    def diff(self) -> RowChanges:
        """Return the rows added and removed in each changed table.

        Changed files are the table `files`. The process that runs the tools reads its own state
        here. With the other isolation levels a judge reads it (`judge.py`).
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


def _refusal(error: Exception) -> str:
    # str() of a KeyError quotes its message.
    lone_key = isinstance(error, KeyError) and len(error.args) == 1
    return str(error.args[0] if lone_key else error) or type(error).__name__
