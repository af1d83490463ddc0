"""MCP client that runs on an event loop's thread and is called from plain threads with timeouts.

The SDK's `Client` handles negotiation, handshakes and parsing. Errors become `WorldFailure`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as LateError
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal
from mcp import Client, MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, CallToolResult, Implementation, Tool

from envgym.errors import Stage, WorldFailure
from envgym.sandbox.mcp.links import Link

PAGES = 100
"""Maximum pages of a tool list; further pages are ignored."""


class Refused(Exception):
    """The server rejects a call's arguments (JSON-RPC -32602), which is the caller's mistake."""


class Failed(Exception):
    """The server answers a call with another JSON-RPC error. The connection still works."""


class Connection:
    """Client that is connected until `close`. For one thread at a time.

    Raises:
        WorldFailure: Stage `open`, if the connection cannot be made.
    """

    def __init__(self, portal: BlockingPortal, link: Link, *, timeout_seconds: float):
        self._portal = portal
        self._link = link
        self._ready: Future[tuple[Client, anyio.Event]] = Future()
        link.deadline = time.monotonic() + timeout_seconds
        self._life = portal.start_task_soon(self._live)
        try:
            self._client, self._end = self._within(self._ready, "open", timeout_seconds)
        except BaseException:
            self._life.cancel()
            link.close()
            raise

    async def _live(self) -> None:
        """Run the client. Its context must be entered and exited in the same task."""
        try:
            async with Client(
                _Entered(self._link, self._portal),
                client_info=Implementation(name="envgym", version="0"),
            ) as client:
                end = anyio.Event()
                self._ready.set_result((client, end))
                await end.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            elif not isinstance(error, Exception | BaseExceptionGroup):
                raise

    @property
    def is_whole(self) -> bool:
        return self._link.failure is None and not self._life.done()

    def tools(self, *, timeout_seconds: float) -> list[Tool]:
        """Return all tools of the server, hidden ones included.

        Raises:
            WorldFailure: Stage `open`, if the server fails.
        """

        async def work() -> list[Tool]:
            page = await self._client.list_tools()
            tools = list(page.tools)
            for _ in range(PAGES):
                if not page.next_cursor:
                    break
                page = await self._client.list_tools(cursor=page.next_cursor)
                tools += page.tools
            return tools

        return self._do(work, "open", timeout_seconds)

    def call(
        self, tool: str, arguments: dict[str, Any], *, stage: Stage, timeout_seconds: float
    ) -> CallToolResult:
        """Call a tool and return its result, which may be an error result.

        Raises:
            WorldFailure: If the server fails.
            Refused: If the server rejects the arguments.
            Failed: If the server reports another error.
        """
        return self._do(lambda: self._client.call_tool(tool, arguments), stage, timeout_seconds)

    def close(self) -> None:
        """Close the client, then its link. Never raises; safe to call twice."""
        try:
            self._portal.start_task_soon(self._say_end)
            self._life.result(1.0)  # Over HTTP the client ends its session.
        except BaseException:
            self._life.cancel()
        self._link.close()

    async def _say_end(self) -> None:
        self._end.set()

    def _do(self, work: Callable[[], Awaitable[Any]], stage: Stage, seconds: float) -> Any:
        self._link.deadline = time.monotonic() + seconds
        return self._within(self._portal.start_task_soon(work), stage, seconds)

    def _within(self, future: Future[Any], stage: Stage, seconds: float) -> Any:
        # The transport failed (no listener), or a reply violates the protocol.
        try:
            return future.result(seconds + self._link.grace_seconds)
        except (LateError, CancelledError) as error:
            future.cancel()
            late = isinstance(error, LateError)
            kind, message = (
                ("timeout", f"no answer within {seconds:g} s")
                if late
                else ("server_lost", "the connection ended")
            )
        except MCPError as error:
            if error.code == INVALID_PARAMS and stage == "call":
                raise Refused(error.message) from None
            if error.code != CONNECTION_CLOSED and stage == "call" and self._link.failure is None:
                raise Failed(f"error {error.code}: {error.message}") from None
            kind = "server_lost" if error.code == CONNECTION_CLOSED else "tool_crashed"
            message = f"the server answered with error {error.code}: {error.message}"
        except WorldFailure:
            raise
        except Exception as error:
            kind = "server_lost"
            message = _plainly(error)
        if told := self._link.failure:  # The link has the more precise reason.
            raise WorldFailure(
                told.kind, told.message, stage=stage, box=told.box, neighbours=told.neighbours
            ) from None
        raise WorldFailure(kind, message, stage=stage) from None


class _Entered:
    """Adapter from a link to the SDK's transport interface."""

    def __init__(self, link: Link, portal: BlockingPortal):
        self._streams = link.streams(portal)

    async def __aenter__(self) -> Any:
        return await self._streams.__aenter__()

    async def __aexit__(self, *trouble: Any) -> bool | None:
        return await self._streams.__aexit__(*trouble)


def _plainly(error: BaseException) -> str:
    """Return the first error inside the exception groups of an event loop."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
