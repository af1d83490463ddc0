"""Session of one episode on an MCP server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envgym.errors import Stage, UsageError
from envgym.sandbox import RowChanges, ToolResult, Verification
from envgym.sandbox.agent import cut
from envgym.sandbox.mcp.connection import Connection, Failed, Refused
from envgym.sandbox.mcp.content import result_text
from envgym.sandbox.mcp.dump import Tables, tables_diff
from envgym.secrets import redact


class McpSession:
    """Session of one episode on an MCP server.

    Args:
        connection: Connection to a server in the start state.
        start: Start tables.
        state_hash: Hash of the start state.
        dump: Returns the server's tables; arguments (connection, stage, timeout in seconds).
        on_close: Called once with the connection when the session ends.
        output_bytes: Maximum output of one tool call in bytes.
    """

    def __init__(
        self,
        connection: Connection,
        start: Tables,
        state_hash: str,
        *,
        dump: Callable[[Connection, Stage, float], Tables],
        on_close: Callable[[Connection], None],
        output_bytes: int,
    ):
        self.state_hash = state_hash
        self.start = start
        self._connection = connection
        self._dump = dump
        self._on_close = on_close
        self._output_bytes = output_bytes
        self._lock = threading.Lock()
        self._closed = False

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        """Call a tool. `now` is not sent: MCP has no field for it."""
        with self._lock:
            self._check_open()
            begun = time.perf_counter()
            try:
                result = self._connection.call(
                    tool, arguments, stage="call", timeout_seconds=timeout_seconds
                )
            except Refused as refusal:
                return ToolResult(
                    redact(str(refusal)), ok=False, seconds=time.perf_counter() - begun
                )
            except Failed as failure:
                text = redact(f"the tool failed: {failure}")
                fault = redact(f"MCP tool '{tool}': {failure}")
                return ToolResult(text, False, time.perf_counter() - begun, fault=fault)
            # Before the cut, which could leave a part of a secret that the server repeats.
            text = cut(redact(result_text(result)), self._output_bytes)
            return ToolResult(text, ok=not result.is_error, seconds=time.perf_counter() - begun)

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        with self._lock:
            self._check_open()
            return tables_diff(self.start, self._dump(self._connection, "diff", timeout_seconds))

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        """Return the final changes. The server reports them, so it must still run."""
        return self.diff(timeout_seconds=timeout_seconds)

    def verify(
        self,
        files: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
        inputs: Mapping[str, str] | None = None,
    ) -> Verification:
        raise UsageError(
            "an MCP server has no work folder to check: tasks with a `check` need state.files and "
            "tools in a box"
        )

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_close(self._connection)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this session is closed; open another one with Sandbox.open()")
