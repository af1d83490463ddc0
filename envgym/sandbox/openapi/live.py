"""A live API as an environment's tools: the operations of an OpenAPI document, called over HTTP from this machine.

Covered: calls go to the host of `base_url` and nowhere else, redirects included; deadlines; output capped; what the server
refuses (4xx) is an answer for the model, what breaks (5xx, no answer, 401, 408, 429) a `WorldFailure`. With `reset` each episode
starts from the state of its seed, with `dump` its changes are seen; a state is then one episode's at a time, unless a header
with `{session}` gives each episode a state of its own on the server.
Not covered: the server's clock and what others do there meanwhile. For training, a simulated document is faster and apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from envgym.errors import (
    PrerequisiteError,
    SpecError,
    Stage,
    UsageError,
    WorldFailure,
    did_you_mean,
)
from envgym.sandbox import RowChanges, ToolResult, Verification
from envgym.sandbox.agent import AppError
from envgym.sandbox.agent.openapi.document import Operation
from envgym.sandbox.agent.openapi.tools import read_documents, selected
from envgym.sandbox.openapi.documents import read_document
from envgym.sandbox.openapi.http_call import Call

if TYPE_CHECKING:
    from envgym.spec.tool_sources import OpenApiTools

NOT_THE_MODELS = {
    401: "the server does not know us",
    408: "the server gave up waiting",
    429: "the server is asked too often",
}
"""Statuses below 500 that no argument of a model can cause or cure."""
DUMP_BYTES = 64 * 2**20
CALL_BYTES = 65536

Tables = dict[str, list[dict[str, Any]]]


def open_live(root: Path, block: OpenApiTools) -> LiveApi:
    """The API that a YAML names. Raises SpecError, PrerequisiteError."""
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
    """The `Sandbox` of a live server.

    Args:
        document: parsed OpenAPI 3 document.
        base_url: put before each path; its scheme, host and port are the only ones that are called.
        reference: names the document in messages; `file.yaml:name` offers that operation alone.
        headers: sent with each call; `env:NAME` is read from the environment, `{session}` becomes the session's name.
        reset: (operation, arguments) called when a session opens, with the `seed` where the operation takes one.
        dump: operation whose answer is {table: [row, ...]}.
    Raises: SpecError for a wrong document or operation, PrerequisiteError for a variable that is not set.
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
                f"{file}: {wrong[0].name} cannot be called: {wrong[0].problem}; list the operations you want by name"
            )
        self.base_url = base_url.rstrip("/")
        self.reset = reset
        self.dump = dump
        self._headers = {name: _value_of(name, text) for name, text in (headers or {}).items()}
        apart = any("{session}" in text for text in self._headers.values())
        self._turn = None if apart or not hidden else threading.Lock()
        self._names = itertools.count(1)
        self._prefix = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._client = httpx.Client(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64)
        )
        state = (
            "each session its own by a header"
            if apart
            else "one state, one episode at a time"
            if hidden
            else "no state is kept"
        )
        self.label = f"live API at {self.base_url}: real calls over the network, {state}"

    def operation(self, name: str) -> Operation:
        if name not in self._known:
            hint = did_you_mean(name, self._known) or f"; operations: {', '.join(self._known)}"
            raise SpecError(f"the OpenAPI document has no operation '{name}'{hint}")
        return self._known[name]

    def describe(self) -> list[dict[str, Any]]:
        return [operation.schema for operation in self._offered.values()]

    def open(self, *, seed: int, timeout_seconds: float) -> LiveSession:
        if self._client.is_closed:
            raise UsageError("this sandbox is closed; open another one")
        if self._turn and not self._turn.acquire(timeout=timeout_seconds):
            advice = "Take fewer workers, or a server that keeps a state for each value of a header with {session}."
            raise WorldFailure(
                "sandbox_full",
                f"another episode holds the state of {self.base_url}. {advice}",
                stage="open",
            )
        try:
            return LiveSession(self, f"{self._prefix}-{next(self._names)}", seed, timeout_seconds)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Lets the next episode have the server's state."""
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
        """(status, body) of a call. Raises WorldFailure for what is no answer."""
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
                "sandbox_lost",
                f"{operation.name}: {self.base_url} cannot be reached: {error}",
                stage=stage,
            ) from None
        if status >= 500 or status in NOT_THE_MODELS:
            why = NOT_THE_MODELS.get(status, "the server broke")
            raise WorldFailure(
                "tool_crashed",
                f"{operation.name}: {why}: status {status}: {text[:300]}",
                stage=stage,
            )
        return status, text

    def close(self) -> None:
        self._client.close()


class LiveSession:
    """One episode's use of the server; the `Session` of envgym.sandbox."""

    def __init__(self, api: LiveApi, name: str, seed: int, timeout_seconds: float):
        self._api, self._name, self._closed, self._lock = api, name, False, threading.Lock()
        if api.reset:
            operation = api.operation(api.reset[0])
            takes_seed = "seed" in operation.parameters["properties"]
            self._ask(
                operation,
                dict(api.reset[1]) | ({"seed": seed} if takes_seed else {}),
                "open",
                timeout_seconds,
            )
        self._start = self._dump("open", timeout_seconds)
        text = json.dumps(self._start if api.dump else [api.base_url, seed], sort_keys=True)
        self.state_hash = hashlib.sha256(text.encode()).hexdigest()[:16]

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        with self._lock:
            if self._closed:
                raise UsageError("this session is closed; open another one with Sandbox.open()")
            started = time.perf_counter()
            try:
                status, text = self._request(
                    self._api.operation(tool), arguments, "call", timeout_seconds, CALL_BYTES
                )
            except ValueError as refusal:
                return ToolResult(str(refusal), ok=False)
            text = text or ("Done." if status < 400 else "refused")
            return ToolResult(
                text if status < 400 else f"{status}: {text}",
                status < 400,
                time.perf_counter() - started,
            )

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        with self._lock:
            now = self._dump("diff", timeout_seconds)
            start = self._start
        changes: RowChanges = {}
        for table in sorted(now.keys() | start.keys()):
            added = _without(now.get(table, []), start.get(table, []))
            removed = _without(start.get(table, []), now.get(table, []))
            if added or removed:
                changes[table] = {"added": added, "removed": removed}
        return changes

    def verify(
        self, files: dict[str, str], command: Sequence[str], *, timeout_seconds: float
    ) -> Verification:
        raise UsageError(
            "a live API has no work folder to check: tasks with a `check` need state.files and tools in a box"
        )

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._api.give_back()

    def _request(
        self,
        operation: Operation,
        arguments: dict[str, Any],
        stage: Stage,
        seconds: float,
        most: int,
    ) -> tuple[int, str]:
        return self._api.request(
            operation,
            arguments,
            session=self._name,
            stage=stage,
            timeout_seconds=seconds,
            most=most,
        )

    def _ask(
        self, operation: Operation, arguments: dict[str, Any], stage: Stage, seconds: float
    ) -> str:
        """The answer of an operation that no model calls. Raises WorldFailure for a refusal too."""
        try:
            status, text = self._request(operation, arguments, stage, seconds, DUMP_BYTES)
        except ValueError as error:
            status = 400
            text = str(error)
        if status >= 400:
            raise WorldFailure(
                "seed_crashed",
                f"{operation.name} was refused: status {status}: {text[:300]}",
                stage=stage,
            )
        return text

    def _dump(self, stage: Stage, seconds: float) -> Tables:
        if not self._api.dump:
            return {}
        text = self._ask(self._api.operation(self._api.dump), {}, stage, seconds)
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            return {
                str(table): [_flat(row) for row in rows] for table, rows in json.loads(text).items()
            }
        raise WorldFailure(
            "tool_crashed",
            f"{self._api.dump}: its answer is not {{table: [row, ...]}}: {text[:100]}",
            stage=stage,
        )


def _value_of(name: str, text: str) -> str:
    """A header's value; `env:NAME` keeps secrets out of the YAML."""
    if not text.startswith("env:"):
        return text
    variable = text.removeprefix("env:")
    if variable not in os.environ:
        raise PrerequisiteError(
            f"the header '{name}' comes from the environment variable {variable}, which is not set. Set it first."
        )
    return os.environ[variable]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of cells: a list or an object as its JSON text, a boolean as 0 or 1, as tables have them."""
    cells = {
        name: json.dumps(cell, sort_keys=True) if isinstance(cell, list | dict) else cell
        for name, cell in row.items()
    }
    return {name: int(cell) if isinstance(cell, bool) else cell for name, cell in cells.items()}


def _without(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Multiset difference, in the order of `rows`; numbers by value."""
    left = Counter(map(_key, others))
    kept = []
    for row in rows:
        if left[_key(row)] > 0:
            left[_key(row)] -= 1
        else:
            kept.append(row)
    return kept


def _key(row: dict[str, Any]) -> Any:
    return frozenset(row.items())  # 1 and 1.0 are equal and hash alike
