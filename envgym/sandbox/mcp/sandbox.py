"""Sandbox for the tools of an MCP server.

Each episode gets a clean server: a new process, or a kept one that was reset by its reset tool. If
the tables of a kept server after the reset differ from the recorded tables of the seed, the server
is dirty: it is ended and replaced by a new one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

from anyio.from_thread import BlockingPortal

from envgym.errors import (
    PrerequisiteError,
    SpecError,
    Stage,
    UsageError,
    WorldFailure,
    did_you_mean,
)
from envgym.sandbox import Sandbox
from envgym.sandbox.mcp import McpServer, ResetCall
from envgym.sandbox.mcp.connection import Connection
from envgym.sandbox.mcp.content import filled, result_text
from envgym.sandbox.mcp.dump import Tables, read_tables, tables_hash
from envgym.sandbox.mcp.event_loop import start_loop, stop_loop
from envgym.sandbox.mcp.links import BoxLink, Exchanging, HttpLink
from envgym.sandbox.mcp.session import McpSession
from envgym.sandbox.options import SandboxOptions
from envgym.secrets import redact, redacted

WAIT_SECONDS = 600.0
"""Seconds an episode waits for a free session if `sessions` is limited."""
KNOWN_SEEDS = 1000
"""Number of seeds with recorded start tables, used to draw tasks and to detect dirty servers."""


@dataclass
class Counts:
    """Counts of server starts and failed resets."""

    started: int = 0
    dirty: int = 0
    """Kept servers that did not have the state of the seed after their reset."""
    lost: int = 0
    """Kept servers that failed during the reset."""


class McpSandbox:
    """Sandbox for one MCP server. Safe to share between threads.

    Args:
        box: Sandbox in which the server's command runs. `None` for a server at a URL.
    """

    def __init__(self, server: McpServer, box: Sandbox | None, options: SandboxOptions):
        self.server, self.counts = server, Counts()
        self.statistics = None
        self.label = redact(
            f"MCP server '{server.name}' in {box.label}"
            if box
            else f"MCP server at {server.name}: not isolated by envgym"
        )
        self._box = box
        self._options = options
        self._known: OrderedDict[int, tuple[str, Tables]] = OrderedDict()
        self._tools: list[dict[str, Any]] | None = None
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()
        self._loop: BlockingPortal | None = None
        self._idle: list[Connection] = []
        self._turns = threading.Semaphore(self.server.sessions) if self.server.sessions else None

    # --- the contract ---

    def describe(self) -> list[dict[str, Any]]:
        with self._lock:
            if self._tools is None:
                self._tools = self._ask_tools()
            return self._tools

    def open(self, *, seed: int, timeout_seconds: float) -> McpSession:
        self._check_open()
        if self._turns and not self._turns.acquire(timeout=WAIT_SECONDS):
            advice = "Close sessions that are done, or raise `sessions` in the mcp block."
            raise WorldFailure(
                "sandbox_full",
                f"all sessions of '{self.server.name}' are taken. {advice}",
                stage="open",
            )
        try:
            return self._open(seed, timeout_seconds)
        except BaseException:
            self._give_turn_back()
            raise

    def tables(self, seed: int) -> Tables:
        """Return the start tables of a seed from the server's dump.

        Empty if it has no dump tool.
        """
        if self.server.dump is None:
            return {}
        if known := self._known.get(seed):
            return known[1]
        session = self.open(seed=seed, timeout_seconds=self._options.open_timeout_seconds)
        try:
            return session.start
        finally:
            session.close()

    def close(self) -> None:
        self._closed = True
        if self._process == os.getpid():
            with self._lock:
                idle = self._idle
                self._idle = []
                for connection in idle:
                    connection.close()
                if self._loop is not None:
                    stop_loop(self._loop)
                    self._loop = None
        if self._box:
            self._box.close()

    # --- servers ---

    def _check_open(self) -> None:
        # After a fork, the loop's thread and maybe a held lock belong to the parent.
        if self._process != os.getpid():
            self._forget()
        if self._closed:
            raise UsageError("this sandbox is closed; open another one")

    def _open(self, seed: int, timeout_seconds: float) -> McpSession:
        deadline = time.monotonic() + timeout_seconds
        if kept := self._take_kept():
            try:
                return self._start(kept, seed, deadline, is_new=False)
            except WorldFailure as failure:
                self._count("dirty" if failure.kind == "dirty" else "lost")
                kept.close()
        connection = self._connect(seed, deadline)
        try:
            return self._start(connection, seed, deadline, is_new=True)
        except BaseException:
            connection.close()
            raise

    def _take_kept(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self, seed: int, deadline: float) -> Connection:
        self._count("started")
        left = deadline - time.monotonic()
        if self._box is None:
            link = HttpLink(self.server.name, self.server.headers)
        else:
            # A kept server serves many seeds and must not depend on the first one.
            own_seed = 0 if isinstance(self.server.reset, ResetCall) else seed
            link = BoxLink(
                cast(Exchanging, self._box.open(seed=own_seed, timeout_seconds=left)),
                self.server.name,
            )
        return Connection(self._portal(), link, timeout_seconds=deadline - time.monotonic())

    def _portal(self) -> BlockingPortal:
        with self._lock:
            if self._loop is None:
                self._loop = start_loop()
            return self._loop

    def _start(
        self, connection: Connection, seed: int, deadline: float, *, is_new: bool
    ) -> McpSession:
        """Reset the server and check that its state is the recorded state of the seed.

        Raises:
            WorldFailure: Kind `dirty` if a kept server has a different state.
        """
        reset = self.server.reset
        if isinstance(reset, ResetCall):
            arguments = filled(reset.arguments, seed=seed, now=self.server.now)
            _ask(connection, reset.tool, arguments, "open", deadline - time.monotonic())
        start = self._dump(connection, "open", deadline - time.monotonic())
        # Without a dump the state is unknown; hash the seed instead.
        state_hash = tables_hash(
            start if self.server.dump else {"seed": [{"seed": seed}]}, volatile=self.server.volatile
        )
        with self._lock:
            known = self._known.get(seed)
            if known and known[0] != state_hash and not is_new:
                raise WorldFailure("dirty", f"seed {seed} had another state before", stage="open")
            # A new server is authoritative. If its state differs from the recorded state, the
            # record came from a server that had not been reset.
            self._known[seed] = (state_hash, start)
            self._known.move_to_end(seed)
            while len(self._known) > KNOWN_SEEDS:
                self._known.popitem(last=False)
        return McpSession(
            connection,
            start,
            state_hash,
            dump=self._dump,
            on_close=self._give_back,
            output_bytes=self._options.output_bytes,
        )

    def _dump(self, connection: Connection, stage: Stage, timeout_seconds: float) -> Tables:
        if self.server.dump is None:
            return {}
        text = _ask(connection, self.server.dump, {}, stage, timeout_seconds)
        try:
            return read_tables(text)
        except ValueError as error:
            raise WorldFailure(
                "tool_crashed", f"the dump tool '{self.server.dump}': {error}", stage=stage
            ) from None

    def _give_back(self, connection: Connection) -> None:
        keep = isinstance(self.server.reset, ResetCall) and connection.is_whole and not self._closed
        with self._lock:
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        self._give_turn_back()

    def _give_turn_back(self) -> None:
        if self._turns:
            self._turns.release()

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)

    # --- tools ---

    def _ask_tools(self) -> list[dict[str, Any]]:
        self._check_open()
        deadline = time.monotonic() + self._options.open_timeout_seconds
        try:
            connection = self._connect(0, deadline)
            found = connection.tools(timeout_seconds=deadline - time.monotonic())
        except WorldFailure as failure:
            what = f"MCP server '{self.server.name}' cannot be used: {failure.message}"
            raise PrerequisiteError(f"{what}\n{self._advice()}") from None
        if isinstance(self.server.reset, ResetCall):
            self._idle.append(connection)
        else:
            connection.close()
        hidden = self._hidden([tool.name for tool in found])
        return [
            {
                "name": tool.name,
                "description": redact(tool.description or ""),
                "parameters": redacted(tool.input_schema),
            }
            for tool in found
            if tool.name not in hidden
        ]

    def _advice(self) -> str:
        if self._box is None:
            return "Start it, and set `url` to its endpoint, such as http://127.0.0.1:8000/mcp."
        return (
            "Try its `command` in the environment's folder; its imports must be installed "
            "in the box."
        )

    def _hidden(self, names: list[str]) -> set[str]:
        reset = self.server.reset
        hidden = [
            *self.server.hidden,
            *([reset.tool] if isinstance(reset, ResetCall) else []),
            *filter(None, [self.server.dump]),
        ]
        for name in hidden:
            if name not in names:
                hint = did_you_mean(name, names) or f"; it has {', '.join(names)}"
                raise SpecError(f"MCP server '{self.server.name}' has no tool '{name}'{hint}")
        return set(hidden)


def _ask(
    connection: Connection,
    tool: str,
    arguments: dict[str, Any],
    stage: Stage,
    timeout_seconds: float,
) -> str:
    """Call a tool for the environment and return its text. Raises WorldFailure if it fails."""
    result = connection.call(
        tool, arguments, stage=stage, timeout_seconds=max(0.1, timeout_seconds)
    )
    if result.is_error:
        raise WorldFailure(
            "tool_crashed", f"tool '{tool}' with {arguments}: {result_text(result)}", stage=stage
        )
    return result_text(result)
