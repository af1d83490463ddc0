"""Where tools run: the contract between an environment and its boxes.

A `Sandbox` owns one or more boxes (an operating-system process or a container), in each of which the same stdlib-only
`agent/` runs; a `Session` is one episode's share of a box: a private copy of the state and the tools that work on it.

    with open_sandbox(app, options) as sandbox:          # sandbox/factory.py
        session = sandbox.open(seed=7, timeout_seconds=10)
        result = session.call("get_contact", {"contact_id": "C17"}, now="2026-03-02T09:00:00", timeout_seconds=10)
        changes = session.diff(timeout_seconds=10)
        session.close()

Failures of the box raise `WorldFailure`; what a tool refuses is a `ToolResult(ok=False)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Backend = Literal["auto", "docker", "podman", "bubblewrap", "local", "none"]
Isolation = Literal["state", "fork", "namespaces", "container"]


@dataclass(frozen=True, slots=True)
class App:
    """What is loaded into a box: a folder and the files in it that define tools and state."""

    root: Path
    """Folder that the box can read (mounted read-only in a container); the paths below are relative to it."""
    tools: tuple[str, ...]
    """Python files, `crm/tools.py` (every public function) or `crm/tools.py:name`."""
    schema: str | None = None
    """SQL file with the tables, or None for an episode without tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables; the same seed must give the same rows."""
    hidden: tuple[str, ...] = ()
    """Files below `root` that no box may hold, such as the tasks with their hidden truth (`hidden.py`). Kept out of containers and
    bubblewrap; a local process reads what its user can read."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one call of a tool gave."""

    text: str
    """Shown to the model; longer output is cut with a marker."""
    ok: bool = True
    """False when the tool refused (`ValueError` or `LookupError`): the text then says why, as an observation."""
    seconds: float = 0.0
    """Time inside the tool, measured in the box."""


RowChanges = dict[str, dict[str, list[dict[str, Any]]]]
"""table -> {"added": [row, ...], "removed": [row, ...]}: rows now there and not at the start, and the reverse.

Tables without a change are left out. A changed row stands in both lists; `envgym.state` pairs them by primary key.
"""


class Session(Protocol):
    """One episode's share of a box."""

    state_hash: str
    """Names the state it started from: equal for equal tables, whatever the backend."""

    def call(self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float) -> ToolResult:
        """Runs one tool.

        Args:
            tool: name of a tool of the app.
            arguments: already validated against the tool's schema.
            now: the episode's virtual clock, ISO 8601; the only time a tool sees.
            timeout_seconds: after this the call is stopped.
        Raises:
            WorldFailure: kind `sandbox_lost` (box gone or garbled), `tool_crashed` (any exception of the tool but
                ValueError and LookupError; the message holds the traceback's end), `timeout`.
        """
        ...

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        """How the tables differ from those the session started with. Raises WorldFailure as `call` does."""
        ...

    def close(self) -> None:
        """Ends the session and wipes what it left. Never raises; safe to call twice."""
        ...


class Sandbox(Protocol):
    """A pool of boxes for one app; safe to share between threads."""

    label: str
    """One line for people: which backend and isolation level are in force, and what they do not isolate."""

    def describe(self) -> list[dict[str, Any]]:
        """The app's tools as JSON schemas (OpenAI function form), derived in the box from signatures and docstrings."""
        ...

    def open(self, *, seed: int, timeout_seconds: float) -> Session:
        """A session on a fresh state made from `seed`.

        Raises: WorldFailure(stage="open"), kind `sandbox_lost`, `timeout`, `seed_crashed` (the seed function raised) or
            `sandbox_full` (no process is left in the box); PrerequisiteError where the very first box does not start;
            SpecError for an app that cannot be loaded.
        """
        ...

    def close(self) -> None:
        """Ends all boxes. Safe to call twice."""
        ...
