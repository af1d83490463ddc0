"""Transports to an MCP server: pairs of message streams for the SDK's client.

`BoxLink` passes lines to a session of a box, whose agent runs the server (`agent/relay.py`);
`HttpLink` is the SDK's streamable HTTP from this machine to one URL.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from queue import SimpleQueue
from typing import Any, Protocol

import anyio
import httpx2
from anyio.from_thread import BlockingPortal
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from envgym.errors import WorldFailure
from envgym.http_client import client_options
from envgym.text import clean_value

CONNECT_SECONDS = 30.0
READ_SECONDS = 300.0
"""Timeouts of HTTP, as the SDK's own client has them. The time limit of a call applies before."""
LEAST_SECONDS = 0.1
"""Minimum timeout in seconds, for messages that the client sends after its deadline."""


class Exchanging(Protocol):
    """Session of a box that runs MCP servers."""

    def exchange(self, server: str, lines: list[str], *, timeout_seconds: float) -> list[str]: ...

    def close(self) -> None: ...


class Link(Protocol):
    failure: WorldFailure | None
    """Reason why the link is broken. `None` if it works."""
    deadline: float
    """Deadline of the current call, as a `time.monotonic()` value."""
    grace_seconds: float
    """Seconds after the deadline in which the link itself may report an error."""

    def streams(self, portal: BlockingPortal) -> AbstractAsyncContextManager[Any]: ...

    def close(self) -> None: ...


class HttpLink:
    """Streamable HTTP link. A broken connection raises errors in the client."""

    grace_seconds = 0.0

    def __init__(self, url: str, headers: Mapping[str, str] | None = None):
        self.url = url
        self._headers = dict(headers or {})
        self.failure: WorldFailure | None = None
        self.deadline = 0.0

    def streams(self, portal: BlockingPortal) -> AbstractAsyncContextManager[Any]:
        return self._streams()

    @asynccontextmanager
    async def _streams(self) -> AsyncIterator[Any]:
        # The SDK follows redirects within the origin only, so headers stay with this host.
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
        async with (
            httpx2.AsyncClient(
                headers=self._headers, timeout=timeout, **client_options()
            ) as client,
            streamable_http_client(self.url, http_client=client) as streams,
        ):
            yield streams

    def close(self) -> None:
        """Do nothing; the client closes the connection."""


class BoxLink:
    """Link to a server in a session of a box. The server ends with the session."""

    # The relay answers within a second of the deadline, a hanging box within ten more
    # (`GRACE_SECONDS`).
    grace_seconds = 13.0

    def __init__(self, session: Exchanging, server: str):
        self.failure: WorldFailure | None = None
        self.deadline = 0.0
        self._session = session
        self._server = server

    @asynccontextmanager
    async def streams(self, portal: BlockingPortal) -> AsyncIterator[Any]:
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](
            float("inf")
        )
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage](float("inf"))
        outbox: SimpleQueue[str | None] = SimpleQueue()

        async def collect() -> None:
            async for message in from_client:
                outbox.put(message.message.model_dump_json(by_alias=True, exclude_unset=True))

        def deliver(lines: list[str]) -> None:
            for line in lines:
                to_client.send_nowait(_parsed(line))

        # An exchange blocks, so it needs a thread: a daemon, so that an unclosed sandbox cannot
        # keep the program alive.
        pump = threading.Thread(
            target=self._pump, args=(portal, outbox, deliver, to_client.close), daemon=True
        )
        pump.start()
        try:
            async with from_client, from_server, to_server, anyio.create_task_group() as tasks:
                tasks.start_soon(collect)
                yield from_server, to_server
                tasks.cancel_scope.cancel()
        finally:
            outbox.put(None)

    def _pump(
        self, portal: BlockingPortal, outbox: SimpleQueue[str | None], deliver: Any, hang_up: Any
    ) -> None:
        """Exchange lines of client and server until the client ends or the box fails."""
        try:
            while (lines := _all_of(outbox)) is not None:
                seconds = max(LEAST_SECONDS, self.deadline - time.monotonic())
                portal.call(
                    deliver, self._session.exchange(self._server, lines, timeout_seconds=seconds)
                )
        except WorldFailure as failure:
            self.failure = failure
            portal.call(hang_up)
        except (RuntimeError, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # The client or its event loop has ended.

    def close(self) -> None:
        self._session.close()


def _all_of(outbox: SimpleQueue[str | None]) -> list[str] | None:
    """Return the lines queued since the last call, at least one, or `None` at the end."""
    said = [outbox.get()]
    while not outbox.empty():
        said.append(outbox.get())
    return None if None in said else [line for line in said if line is not None]


def _parsed(line: str) -> SessionMessage | Exception:
    try:
        return SessionMessage(
            jsonrpc_message_adapter.validate_python(clean_value(json.loads(line)), by_name=False)
        )
    except ValueError as error:
        return error
