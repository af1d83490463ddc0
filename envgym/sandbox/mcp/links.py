"""The way to an MCP server: a pair of message streams for the SDK's client.

`BoxLink` hands the client's lines to a session of a box, whose agent runs the server and relays (`agent/relay.py`); `HttpLink`
is the SDK's own streamable HTTP, from this machine to one URL.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from queue import SimpleQueue
from typing import Any, Protocol

import anyio
from anyio.from_thread import BlockingPortal
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from envgym.errors import WorldFailure

LEAST_SECONDS = 0.1
"""What is left for a message that the client sends after its own deadline."""


class Exchanging(Protocol):
    """A session of a box that runs servers."""

    def exchange(self, server: str, lines: list[str], *, timeout_seconds: float) -> list[str]: ...

    def close(self) -> None: ...


class Link(Protocol):
    failure: WorldFailure | None
    """Why the way is broken; None while it is whole."""
    deadline: float
    """`time.monotonic()` at which the call that is under way must be done."""
    grace_seconds: float
    """How long past the deadline the link itself is given to say what went wrong."""

    def streams(self, portal: BlockingPortal) -> AbstractAsyncContextManager[Any]: ...

    def close(self) -> None: ...


class HttpLink:
    """Streamable HTTP. A connection that breaks shows in the client's own errors."""

    grace_seconds = 0.0

    def __init__(self, url: str):
        self.url = url
        self.failure: WorldFailure | None = None
        self.deadline = 0.0

    def streams(self, portal: BlockingPortal) -> AbstractAsyncContextManager[Any]:
        return streamable_http_client(self.url)

    def close(self) -> None:
        """Nothing but the connection itself, which the client ends."""


class BoxLink:
    """A server in a session of a box, ended with it."""

    # The relay answers within a second of the deadline, a box that is out of its mind within ten more (`GRACE_SECONDS`).
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

        # A thread of its own, since an exchange blocks; a daemon, so that a sandbox nobody closed does not hold the program.
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
        """Exchanges what the client says for what the server says, until the client ends or the world breaks."""
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
            return  # the client, or its loop, has ended

    def close(self) -> None:
        self._session.close()


def _all_of(outbox: SimpleQueue[str | None]) -> list[str] | None:
    """What has been said since the last time, waiting for the first; None at the end."""
    said = [outbox.get()]
    while not outbox.empty():
        said.append(outbox.get())
    return None if None in said else [line for line in said if line is not None]


def _parsed(line: str) -> SessionMessage | Exception:
    try:
        return SessionMessage(
            jsonrpc_message_adapter.validate_python(json.loads(line), by_name=False)
        )
    except ValueError as error:
        return error
