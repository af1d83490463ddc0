"""Operations of an OpenAPI document as tools, called over HTTP on a live server.

Calls and redirects go only to the host of `base_url`. A 4xx response is a refusal. After 5xx, no
response, 401, 408 or 429 another request checks the server: if it is answered, the failure belongs
to the call and the model sees an observation; otherwise the server is down, a `WorldFailure`.
`reset` sets the state of a seed at the start of an episode, `dump` reports its changes; then one
episode at a time uses the server, unless a header with `{session}` separates their states. Not
controlled: the server's clock and its other users. For training a simulated document is faster and
isolated.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from envgym.errors import (
    SpecError,
    Stage,
    UsageError,
    WorldFailure,
    did_you_mean,
)
from envgym.http_client import Address, client_options
from envgym.sandbox.agent import AppError
from envgym.sandbox.agent.openapi.document import Operation
from envgym.sandbox.agent.openapi.tools import read_documents, selected
from envgym.sandbox.openapi.documents import read_document
from envgym.sandbox.openapi.http_call import Call
from envgym.sandbox.openapi.session import LiveSession
from envgym.secrets import redact

if TYPE_CHECKING:
    from envgym.spec.tool_sources import OpenApiTools

NOT_THE_MODELS = {
    401: "the server rejects the credentials",
    408: "the server timed out",
    429: "the server's rate limit is exceeded",
}
"""Statuses below 500 that mostly do not depend on the model's arguments."""
CHECK_SECONDS = 5.0
"""Time limit of the request that checks whether the server answers."""
CHECK_BYTES = 64 * 2**20
PAUSE_SECONDS = 0.25
"""First pause of a check while the server's rate limit is exceeded. Each further one doubles."""


def open_live(root: Path, block: OpenApiTools) -> LiveApi:
    """Open the API of a YAML's tool block. Raises SpecError and PrerequisiteError."""
    file = block.openapi.partition(":")[0]
    reset = (block.reset.operation, block.reset.arguments) if block.reset else None
    return LiveApi(
        read_document(root / file),
        block.base_url,
        reference=block.openapi,
        headers=block.headers,
        reset=reset,
        dump=block.dump,
    )


class LiveApi:
    """`Sandbox` for a live server.

    Args:
        document: Parsed OpenAPI 3 document.
        base_url: Prefix of each path. No other scheme, host or port is called. A user and a
            password in it are sent as the header Authorization, and never shown.
        reference: Name of the document in messages. `file.yaml:name` offers one operation only.
        headers: Headers of each call, sent to the host of `base_url` only. `{session}` becomes the
            session's name.
        reset: (operation, arguments) to call when a session opens, with `seed` if it has this
            argument.
        dump: Operation that returns {table: [row, ...]}.

    Raises:
        SpecError: If the document, an operation, the URL or a header is wrong.
        PrerequisiteError: If an environment variable is not set.
    """

    def __init__(
        self,
        document: Any,
        base_url: str,
        *,
        reference: str = "openapi.yaml",
        headers: Mapping[str, str] | None = None,
        reset: tuple[str, Mapping[str, Any]] | None = None,
        dump: str | None = None,
    ):
        file = reference.partition(":")[0]
        try:
            api = read_documents({file: document})[file]
            offered = selected(api, reference)
        except AppError as error:
            raise SpecError(str(error)) from None
        hidden = {name for name in (reset and reset[0], dump) if name}
        self._known = api.operations
        for name in hidden:
            self.operation(name)
        self._offered = {
            operation.name: operation for operation in offered if operation.name not in hidden
        }
        if wrong := [operation for operation in self._offered.values() if operation.problem]:
            raise SpecError(
                f"{file}: {wrong[0].name} cannot be called: {wrong[0].problem}; "
                "list the operations you want by name"
            )
        self.statistics = None
        address = Address.of(base_url, headers)
        self.base_url = address.url.rstrip("/")
        self.reset = reset
        self.dump = dump
        self._headers = address.headers
        apart = any("{session}" in text for text in self._headers.values())
        self._turn = None if apart or not hidden else threading.Lock()
        self._names = itertools.count(1)
        self._prefix = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._client = httpx.Client(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            **client_options(),
        )
        state = _describe_state(apart=apart, has_state=bool(hidden))
        self.label = redact(f"live API at {self.base_url}: real calls over the network, {state}")

    def operation(self, name: str) -> Operation:
        if name not in self._known:
            hint = did_you_mean(name, self._known) or f"; operations: {', '.join(self._known)}"
            raise SpecError(f"the OpenAPI document has no operation '{name}'{hint}")
        return self._known[name]

    def describe(self) -> list[dict[str, Any]]:
        return [operation.schema for operation in self._offered.values()]

    def tables(self, seed: int) -> dict[str, list[dict[str, Any]]]:
        """Return no tables: a live API defines its state itself."""
        return {}

    def open(self, *, seed: int, timeout_seconds: float) -> LiveSession:
        if self._client.is_closed:
            raise UsageError("this sandbox is closed; open another one")
        if self._turn and not self._turn.acquire(timeout=timeout_seconds):
            advice = (
                "Use fewer workers, or a server that keeps a state for each value of a header "
                "with {session}."
            )
            raise WorldFailure(
                "sandbox_full",
                f"another episode is using the state of {self.base_url}. {advice}",
                stage="open",
            )
        try:
            return LiveSession(self, f"{self._prefix}-{next(self._names)}", seed, timeout_seconds)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Release the server's state for the next episode."""
        if self._turn:
            self._turn.release()

    def request(
        self,
        operation: Operation,
        arguments: dict[str, Any],
        *,
        session: str,
        stage: Stage,
        timeout_seconds: float,
        most: int,
    ) -> tuple[int, str]:
        """Call an operation and return (status, body). The body has no secret of ours.

        Raises:
            WorldFailure: If there is no usable response.
        """
        call = Call(
            self.base_url,
            operation,
            arguments,
            {n: t.replace("{session}", session) for n, t in self._headers.items()},
        )
        try:
            status, text = call.send(self._client, timeout_seconds, most)
        except (httpx.TimeoutException, TimeoutError):
            raise WorldFailure(
                "timeout", f"{operation.name}: no answer within {timeout_seconds:g} s", stage=stage
            ) from None
        except httpx.HTTPError as error:
            raise WorldFailure(
                "server_lost",
                f"{operation.name}: {self.base_url} cannot be reached: {error}",
                stage=stage,
            ) from None
        if status >= 500 or status in NOT_THE_MODELS:
            why = NOT_THE_MODELS.get(status, "the server failed")
            raise WorldFailure(
                "server_failed",
                f"{operation.name}: {why}: status {status}: {text[:300]}",
                stage=stage,
            )
        return status, text

    def is_answering(self, *, session: str) -> bool:
        """Return whether the server answers a request that does not depend on the model.

        The request is the dump operation or, without one, GET of the base URL, where any status
        below 500 counts except for 401, 408 and 429. While the server's rate limit is exceeded, the
        request is repeated.

        Args:
            session: Name of the session, for headers.
        """
        deadline = time.monotonic() + CHECK_SECONDS
        pause = PAUSE_SECONDS
        while True:
            try:
                status = self._check(session, max(0.1, deadline - time.monotonic()))
            except (httpx.HTTPError, TimeoutError, ValueError):
                return False
            if status != 429 or time.monotonic() + pause > deadline:
                return status < 500 and status not in NOT_THE_MODELS
            time.sleep(pause)
            pause *= 2

    def _check(self, session: str, seconds: float) -> int:
        headers = {name: text.replace("{session}", session) for name, text in self._headers.items()}
        if self.dump is None:
            return self._client.get(self.base_url, headers=headers, timeout=seconds).status_code
        call = Call(self.base_url, self.operation(self.dump), {}, headers)
        return call.send(self._client, seconds, CHECK_BYTES)[0]

    def close(self) -> None:
        self._client.close()


def _describe_state(*, apart: bool, has_state: bool) -> str:
    if apart:
        return "a state for each session by a header"
    return "one state, one episode at a time" if has_state else "no state is kept"
