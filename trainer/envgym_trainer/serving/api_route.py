"""ASGI application of one API: key, limits, body, disconnects, streaming and counters.

The fields and the answers of an API are in a file of its own, as an `Exchange`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from envgym.errors import UsageError, WorldFailure
from envgym.secrets import get_logger
from envgym.text import to_json
from envgym_trainer.serving.api_errors import ApiError
from envgym_trainer.serving.generation import Generation
from envgym_trainer.serving.json_body import read_json_object
from envgym_trainer.serving.monitoring import ServerCounters
from envgym_trainer.serving.served_model import ServedModel

LARGE_BODY_BYTES = 50_000
"""Larger bodies are checked and rendered on a thread, so that other requests go on."""
CLIENT_GONE = 499
"""Status that is counted if the client went away before the response."""
log = get_logger(__name__)


class Exchange(Protocol):
    """Request of an API: checked when it is created, then started, then answered."""

    @property
    def is_streamed(self) -> bool:
        """Whether the response is a stream of chunks."""
        ...

    def start(self) -> Generation:
        """Start to sample."""
        ...

    def response(self, generation: Generation) -> dict[str, Any]:
        """Return the response after the end of the sampling."""
        ...

    def chunks(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a stream, during the sampling."""
        ...


Opener = Callable[[ServedModel, dict[str, Any]], Exchange]


@dataclass(eq=False)
class ServerState:
    """State of one server. Used on the event loop only."""

    model: ServedModel
    key: str | None = field(default=None, repr=False)
    """API key that requests below /v1 must send. None: no key."""
    counters: ServerCounters = field(default_factory=ServerCounters)
    is_draining: bool = False
    """Whether new requests are refused, because the server ends."""


class ApiRoute:
    """ASGI application of one API.

    Args:
        state: State of the server.
        path: Path of the API, for the counters.
        opener: Function that checks a request.
    """

    def __init__(self, state: ServerState, path: str, opener: Opener):
        self._state = state
        self._path = path
        self._open = opener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counters = self._state.counters
        started = time.perf_counter()
        counters.in_flight += 1
        status = CLIENT_GONE
        request = Request(scope, receive)
        try:
            response = await self._response(request)
            await response(scope, receive, send)
            status = response.status_code
        except ClientDisconnect:
            counters.disconnected += 1
        finally:
            counters.in_flight -= 1
            counters.add_response(self._path, status, time.perf_counter() - started)

    async def _response(self, request: Request) -> Response:
        try:
            self._check(request)
            exchange = await self._exchange(request)
            generation = exchange.start()
            if exchange.is_streamed:
                return EventStream(self._state, exchange, generation)
            await _wait_unless_gone(request, generation)
            self._state.counters.add_tokens(generation.sequences)
            return json_response(exchange.response(generation))
        except ClientDisconnect:
            raise
        except Exception as error:
            return error_response(error)

    def _check(self, request: Request) -> None:
        """Check the key and whether there is room for the request. Raises ApiError."""
        state = self._state
        check_key(request, state.key)
        if state.is_draining:
            raise ApiError(
                503,
                "the server is shutting down.",
                code="server_shutting_down",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        if state.counters.in_flight > state.model.limits.max_requests:
            raise ApiError(
                429,
                f"{state.model.limits.max_requests} requests are in flight, which is the limit of "
                "this server (--max-requests). Try again.",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415,
                "the header 'Content-Type' must be application/json.",
                code="unsupported_media_type",
            )

    async def _exchange(self, request: Request) -> Exchange:
        """Read and check the request. Raises ApiError."""
        limits = self._state.model.limits
        try:
            async with asyncio.timeout(limits.body_timeout_seconds):
                data = await _read(request, limits.max_body_bytes)
        except TimeoutError:
            raise ApiError(
                408,
                f"the body was not complete after {limits.body_timeout_seconds:g} seconds.",
                code="request_timeout",
            ) from None
        if len(data) <= LARGE_BODY_BYTES:
            return self._open(self._state.model, read_json_object(data))
        return await asyncio.to_thread(
            lambda: self._open(self._state.model, read_json_object(data))
        )


class EventStream(StreamingResponse):
    """Response that sends chunks as server-sent events. The end of a client ends the sampling."""

    def __init__(self, state: ServerState, exchange: Exchange, generation: Generation):
        super().__init__(self._events(exchange, generation), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._state = state
        self._generation = generation
        self._is_complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()
            self._state.counters.add_tokens(self._generation.sequences)
        if not self._is_complete:
            raise ClientDisconnect

    async def _events(self, exchange: Exchange, generation: Generation) -> AsyncIterator[str]:
        try:
            async for chunk in exchange.chunks(generation):
                yield f"data: {to_json(chunk)}\n\n"
        except Exception as error:  # the status is sent already
            yield f"data: {to_json(api_error(error).body)}\n\n"
        yield "data: [DONE]\n\n"
        self._is_complete = True


async def _read(request: Request, limit: int) -> bytes:
    """Return the body of a request. Raises ApiError if it has more bytes than the limit."""
    too_large = ApiError(
        413,
        f"the body has more than {limit} bytes, which is the limit of this server (--max-body-mb).",
        code="request_too_large",
        headers={"Connection": "close"},
    )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise too_large
    return bytes(data)


async def _wait_unless_gone(request: Request, generation: Generation) -> None:
    """Wait for a generation. Cancel it if the client goes away, and raise ClientDisconnect."""
    result = asyncio.ensure_future(generation.wait())
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        result.result()
    finally:
        gone.cancel()
        if not result.done():
            generation.cancel()
            result.cancel()


async def _disconnect(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_key(request: Request, key: str | None) -> None:
    """Raise ApiError if the request does not send the server's key."""
    sent = request.headers.get("authorization", "")
    if key is None or hmac.compare_digest(sent.encode(), f"Bearer {key}".encode()):
        return
    raise ApiError(
        401,
        "the API key is missing or wrong. Send it in the header 'Authorization: Bearer KEY'.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def api_error(error: Exception) -> ApiError:
    """Return the API's error for an exception. Unexpected ones are logged with their traceback."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UsageError):  # of the chat template, for this conversation
        return ApiError(400, str(error), param="messages", code="invalid_value")
    if isinstance(error, WorldFailure):
        log.error("%s", error)
        return ApiError(500, error.message, code="engine_failed")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log has the reason.", code="internal_error")


def error_response(error: Exception) -> Response:
    """Return the response for an exception."""
    found = api_error(error)
    return json_response(found.body, found.status, found.headers)


def json_response(
    body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a JSON response. Numbers that are not finite become their names."""
    return Response(to_json(body), status, headers, media_type="application/json")
