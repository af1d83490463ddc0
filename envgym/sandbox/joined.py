"""Combine several sandboxes (boxes, MCP servers, live APIs) into one.

A session has one session per part. Calls are routed by tool name; diffs are merged. Two parts must
not define a tool or a table with the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envgym.errors import SpecError, WorldFailure
from envgym.sandbox import RowChanges, Sandbox, Session, ToolResult, Verification


class CombinedSandbox:
    """Sandboxes that serve one environment together. Closing it closes all parts."""

    def __init__(self, parts: Sequence[Sandbox]):
        self.parts = tuple(parts)
        self.label = "; ".join(part.label for part in self.parts)
        self.statistics = None
        self._homes: dict[str, int] = {}

    def describe(self) -> list[dict[str, Any]]:
        """Return the tools of all parts, in order. Raises SpecError if a name is used twice."""
        schemas = []
        homes = {}
        for index, part in enumerate(self.parts):
            for schema in part.describe():
                if (other := homes.setdefault(schema["name"], index)) != index:
                    pair = f"{self.parts[other].label}, and {part.label}"
                    raise SpecError(
                        f"two sources define a tool named '{schema['name']}' ({pair}); "
                        "rename or hide one of them"
                    )
                schemas.append(schema)
        self._homes = homes
        return schemas

    def open(self, *, seed: int, timeout_seconds: float) -> JoinedSession:
        homes = self._homes or self._find_homes()
        deadline = time.monotonic() + timeout_seconds
        sessions: list[Session] = []
        with _all_closed_on_failure(sessions):
            for part in self.parts:
                sessions.append(
                    part.open(seed=seed, timeout_seconds=max(0.1, deadline - time.monotonic()))
                )
        return JoinedSession(sessions, homes)

    def _find_homes(self) -> dict[str, int]:
        self.describe()
        return self._homes

    def tables(self, seed: int) -> dict[str, list[dict[str, Any]]]:
        """Return the start tables of all parts; see `Sandbox.tables`."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for part in self.parts:
            told = part.tables(seed)
            _refuse_shared(tables, told)
            tables |= told
        return tables

    def close(self) -> None:
        for part in self.parts:
            part.close()


class JoinedSession:
    """Sessions of one episode, one per part. If one fails, all are closed."""

    def __init__(self, sessions: Sequence[Session], homes: dict[str, int]):
        joined = hashlib.sha256("\n".join(session.state_hash for session in sessions).encode())
        self.state_hash = joined.hexdigest()[:16]
        self._sessions = sessions
        self._homes = homes

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        with _all_closed_on_failure(self._sessions):
            return self._sessions[self._homes[tool]].call(
                tool, arguments, now=now, timeout_seconds=timeout_seconds
            )

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        changes: RowChanges = {}
        with _all_closed_on_failure(self._sessions):
            for session in self._sessions:
                told = session.diff(timeout_seconds=timeout_seconds)
                _refuse_shared(changes, told)
                changes |= told
        return changes

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        changes: RowChanges = {}
        with _all_closed_on_failure(self._sessions):
            for session in self._sessions:
                told = session.finish(timeout_seconds=timeout_seconds, keep_files=keep_files)
                _refuse_shared(changes, told)
                changes |= told
        return changes

    def verify(
        self,
        files: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
        inputs: Mapping[str, str] | None = None,
    ) -> Verification:
        """Run the check in the first part, which has the work folder if there is one."""
        with _all_closed_on_failure(self._sessions):
            return self._sessions[0].verify(
                files, command, timeout_seconds=timeout_seconds, inputs=inputs
            )

    def close(self) -> None:
        for session in self._sessions:
            session.close()


@contextlib.contextmanager
def _all_closed_on_failure(sessions: Sequence[Session]) -> Iterator[None]:
    try:
        yield
    except (WorldFailure, SpecError):
        for session in sessions:
            session.close()
        raise


def _refuse_shared(tables: dict[str, Any], more: dict[str, Any]) -> None:
    if shared := tables.keys() & more.keys():
        raise SpecError(
            f"two sources of tools have a table named '{min(shared)}'; rename one of them"
        )
