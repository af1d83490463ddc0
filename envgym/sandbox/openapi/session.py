"""Session of one episode on a live server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from envgym.errors import Stage, UsageError, WorldFailure
from envgym.sandbox import RowChanges, ToolResult, Verification
from envgym.sandbox.agent.openapi.document import Operation

DUMP_BYTES = 64 * 2**20
CALL_BYTES = 65536

Tables = dict[str, list[dict[str, Any]]]


class Api(Protocol):
    """Live API as its sessions see it; `live.LiveApi` is one."""

    base_url: str
    reset: tuple[str, Mapping[str, Any]] | None
    dump: str | None

    def operation(self, name: str) -> Operation:
        """Return an operation of the document. Raises SpecError."""
        ...

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
        """Call an operation and return (status, body). Raises WorldFailure."""
        ...

    def is_answering(self, *, session: str) -> bool:
        """Return whether the server answers a request that does not depend on the model."""
        ...

    def give_back(self) -> None:
        """Release the server's state for the next episode."""
        ...


class LiveSession:
    """Session of one episode on the server."""

    def __init__(self, api: Api, name: str, seed: int, timeout_seconds: float):
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
            except WorldFailure as failure:
                return self._failed(failure, time.perf_counter() - started)
            text = text or ("Done." if status < 400 else "refused")
            return ToolResult(
                text if status < 400 else f"{status}: {text}",
                status < 400,
                time.perf_counter() - started,
            )

    def _failed(self, failure: WorldFailure, seconds: float) -> ToolResult:
        """Return a failed call as a result if the server still answers other requests.

        Raises:
            WorldFailure: Kind `server_down`.
        """
        if not self._api.is_answering(session=self._name):
            message = f"{failure.message}; the server answers no other request either"
            raise WorldFailure("server_down", message, stage="call")
        fault = f"{self._api.base_url}: {failure.message}"
        text = f"the tool failed: {failure.message}"
        return ToolResult(text, False, seconds, fault=fault, is_late=failure.kind == "timeout")

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

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        """Return the final changes, as the server reports them."""
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
            "a live API has no work folder to check: tasks with a `check` need state.files and "
            "tools in a box"
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
        """Call an operation for the environment and return its body.

        Raises:
            WorldFailure: If there is no usable response or the server refuses.
        """
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
            f"{self._api.dump}: its response is not {{table: [row, ...]}}: {text[:100]}",
            stage=stage,
        )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Convert cells as tables store them: lists and objects to JSON text, booleans to 0 or 1."""
    cells = {
        name: json.dumps(cell, sort_keys=True) if isinstance(cell, list | dict) else cell
        for name, cell in row.items()
    }
    return {name: int(cell) if isinstance(cell, bool) else cell for name, cell in cells.items()}


def _without(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the multiset difference, in the order of `rows`. Numbers are compared by value."""
    left = Counter(map(_key, others))
    kept = []
    for row in rows:
        if left[_key(row)] > 0:
            left[_key(row)] -= 1
        else:
            kept.append(row)
    return kept


def _key(row: dict[str, Any]) -> Any:
    return frozenset(row.items())  # 1 and 1.0 are equal and have equal hashes.
