"""Blocking MCP client with timeouts, around the asynchronous `Client` of the SDK.

The SDK's client runs on the thread of an event loop (the portal). It does the handshake and parses
messages. Errors of the server or of the connection become `WorldFailure`.
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
    """The server rejected the arguments of a call (JSON-RPC -32602): a mistake of the model."""


class Failed(Exception):
    """The server answers a call with another JSON-RPC error. The connection still works."""


class Connection:
    """Connection to a server, open until `close`. Not thread-safe.

    Args:
        portal: Event loop that runs the client.
        link: Transport to the server. The connection closes it.
        timeout_seconds: Time limit of the handshake in seconds.

    Raises:
        WorldFailure: Stage `open`, if the connection cannot be made.
    """

    def __init__(self, portal: BlockingPortal, link: Link, *, timeout_seconds: float):
        self._portal = portal
        self._link = link
        self._ready: Future[tuple[Client, anyio.Event]] = Future()
        link.deadline = time.monotonic() + timeout_seconds
        self._task = portal.start_task_soon(self._run_client)
        try:
            self._client, self._closing = self._wait(self._ready, "open", timeout_seconds)
        except BaseException:
            self._task.cancel()
            link.close()
            raise

    async def _run_client(self) -> None:
        """Run the client until `close`, in one task that enters and leaves its context."""
        try:
            async with Client(
                _Transport(self._link, self._portal),
                client_info=Implementation(name="envgym", version="0"),
            ) as client:
                closing = anyio.Event()
                self._ready.set_result((client, closing))
                await closing.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            elif not isinstance(error, Exception | BaseExceptionGroup):
                raise

    @property
    def is_whole(self) -> bool:
        """Whether neither the link nor the client has failed."""
        return self._link.failure is None and not self._task.done()

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
            self._portal.start_task_soon(self._start_closing)
            self._task.result(1.0)  # Over HTTP the client sends the end of its session.
        except BaseException:
            self._task.cancel()
        self._link.close()

    async def _start_closing(self) -> None:
        self._closing.set()

    def _do(self, work: Callable[[], Awaitable[Any]], stage: Stage, seconds: float) -> Any:
        self._link.deadline = time.monotonic() + seconds
        return self._wait(self._portal.start_task_soon(work), stage, seconds)

    def _wait(self, future: Future[Any], stage: Stage, seconds: float) -> Any:
        """Return the result of a task on the event loop. Its errors become `WorldFailure`."""
        try:
            return future.result(seconds + self._link.grace_seconds)
        except LateError:
            future.cancel()
            kind, message = "timeout", f"no answer within {seconds:g} s"
        except CancelledError:
            kind, message = "server_lost", "the connection ended"
        except MCPError as error:
            if error.code == INVALID_PARAMS and stage == "call":
                raise Refused(error.message) from None
            if error.code != CONNECTION_CLOSED and stage == "call" and self._link.failure is None:
                raise Failed(f"error {error.code}: {error.message}") from None
            kind = "server_lost" if error.code == CONNECTION_CLOSED else "tool_crashed"
            message = f"the server answered with error {error.code}: {error.message}"
        except WorldFailure:
            raise
        except Exception as error:  # No listener, or a reply that violates the protocol.
            kind, message = "server_lost", _first_error(error)
        if failure := self._link.failure:  # The reason of the link is more precise.
            raise WorldFailure(
                failure.kind,
                failure.message,
                stage=stage,
                box=failure.box,
                neighbours=failure.neighbours,
            ) from None
        raise WorldFailure(kind, message, stage=stage) from None


class _Transport:
    """Adapter from a link to the transport interface of the SDK."""

    def __init__(self, link: Link, portal: BlockingPortal):
        self._streams = link.streams(portal)

    async def __aenter__(self) -> Any:
        return await self._streams.__aenter__()

    async def __aexit__(self, *trouble: Any) -> bool | None:
        return await self._streams.__aexit__(*trouble)


def _first_error(error: BaseException) -> str:
    """Return the first error inside the exception groups of an event loop."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
