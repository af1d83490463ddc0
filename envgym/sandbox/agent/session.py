"""One session's work place: a private database, a folder where the app lays one out, and the tools that run on them.

A call is one transaction of the database; what a refused call wrote into files stays.

The same in a forked child, in an agent with isolation `state` and in the host's own process.
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
from .file_tree import WorkFolder, wipe
from .relay import Relay
from .tables import RowChanges, diff_tables, image_hash

OUTPUT_BYTES = 64 * 1024


class Database(sqlite3.Connection):
    """A session's database. A call is one transaction of the box; commit and rollback of a tool stay inside it."""

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
    """One session: a private database, its files, and the tools that work on them. For one thread at a time.

    Args:
        place: an empty folder of the session's own; needed where the app lays out files.
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
            ":memory:", factory=Database, isolation_level=None, check_same_thread=False
        )
        self.db.deserialize(image)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA foreign_keys = ON")

    def call(self, tool: str, arguments: dict[str, Any], now: str) -> dict[str, Any]:
        """Runs a tool; a refused or crashed call leaves the tables as they were. Raises BoxError(`tool_crashed`)."""
        function = self.app.tools[tool]
        given = {"db": self.db, "now": now, "folder": self.work and self.work.path}
        self.calls += 1
        if self.fix_random:
            random.seed(
                self.seed * 1_000_003 + self.calls
            )  # siblings that do the same see the same
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
        return {"text": cut(text, self.output_bytes), "ok": ok, "seconds": seconds}

    def _finish(self, tool: str, *, keep: bool) -> None:
        try:
            self.db.end_call(keep=keep)
        except sqlite3.OperationalError:
            # BEGIN, COMMIT and `executescript` end the box's own savepoint, and with it the promise that a refusal changes nothing.
            advice = "Leave BEGIN, COMMIT and executescript() out of tools; db.commit() and `with db:` are fine."
            raise BoxError(
                "tool_crashed",
                f"tool '{tool}' ended the transaction that its call runs in. {advice}",
            ) from None

    def relay(self, name: str) -> Relay:
        """The session's own run of an MCP server that the app declares, started when it is first asked for."""
        if name not in self._relays:
            server = next(server for server in self.app.servers if server["name"] == name)
            self._relays[name] = Relay(server, self.app.root, self.seed)
        return self._relays[name]

    def diff(self) -> RowChanges:
        """Rows now there and not at the start, and the reverse, of each table that changed; files are the table `files`."""
        return diff_tables(self.db, self.image) | (self.work.diff() if self.work else {})

    def hand_over(self) -> dict[str, Any]:
        """The final files, for `verify`."""
        return self.work.hand_over() if self.work else {"tree": {}, "problem": ""}

    def close(self) -> None:
        for relay in self._relays.values():
            relay.end()
        self.db.close()
        if self.work:
            wipe(self.place)


def cut(text: str, most: int) -> str:
    """The first `most` bytes of a tool's answer, with a marker where there was more."""
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
    lone_key = (
        isinstance(error, KeyError) and len(error.args) == 1
    )  # str() of a KeyError puts its message in quotes
    return str(error.args[0] if lone_key else error) or type(error).__name__
