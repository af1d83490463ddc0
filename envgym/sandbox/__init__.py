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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Backend = Literal["auto", "docker", "podman", "bubblewrap", "local", "none"]
Isolation = Literal["state", "fork", "namespaces", "container"]
VERIFY_SECONDS = 10.0
"""Time to take the final files out of a session and put them before a check, beside the check's own."""


@dataclass(frozen=True, slots=True)
class Server:
    """An MCP server that a session of a box can run, spoken to by its JSON-RPC lines (`BoxSession.exchange`)."""

    name: str
    command: tuple[str, ...]
    """Run in the app's folder; `python` is the Python that runs the agent."""
    env: dict[str, str]
    """Variables on top of the box's own; ENVGYM_SEED, the session's seed, comes by itself."""


@dataclass(frozen=True, slots=True)
class App:
    """What is loaded into a box: a folder and the files in it that define tools and state."""

    root: Path
    """Folder that the box can read (mounted read-only in a container); the paths below are relative to it."""
    tools: tuple[str, ...]
    """Python files, `crm/tools.py` (every public function) or `crm/tools.py:name`, and OpenAPI documents, likewise."""
    schema: str | None = None
    """SQL file with the tables, or None for an episode without tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables; the same seed must give the same rows."""
    files: str | None = None
    """`file.py:function(folder, seed)` that lays out a session's work folder; the same seed must give the same files."""
    servers: tuple[Server, ...] = ()
    """MCP servers; what their commands name below `root` is loaded with the rest."""
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


@dataclass(frozen=True, slots=True)
class Verification:
    """What a task's hidden test command said about the final files."""

    exit_code: int | None
    """Of the command, negative for a signal; None where it did not end in time, did not start, or had no tree to look at."""
    output: str
    """The end of what it printed, or why there is no exit code."""

    @property
    def passed(self) -> bool:
        return self.exit_code == 0


RowChanges = dict[str, dict[str, list[dict[str, Any]]]]
"""table -> {"added": [row, ...], "removed": [row, ...]}: rows now there and not at the start, and the reverse.

Files, where an app lays some out, are the table `files` (path, kind, mode, text). Tables without a change are left out. A
changed row stands in both lists; `envgym.rewards.state_diff` pairs them by primary key.
"""


class Session(Protocol):
    """One episode's share of a box."""

    state_hash: str
    """Names the state it started from: equal for equal tables, whatever the backend."""

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        """Runs one tool.

        Args:
            tool: name of a tool of the app.
            arguments: already validated against the tool's schema.
            now: the episode's virtual clock, ISO 8601; the only time a tool sees.
            timeout_seconds: after this the call is stopped.
        Raises:
            WorldFailure: kind `sandbox_lost` (box gone or garbled), `tool_crashed` (any exception of the tool but
                ValueError and LookupError; the message holds the traceback's end), `session_ended` (its process ended by itself),
                `out_of_memory` (the kernel ended it), `server_lost` (a foreign server ended or refuses the connection), `timeout`.
        """
        ...

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        """How the tables differ from those the session started with. Raises WorldFailure as `call` does."""
        ...

    def verify(
        self, files: dict[str, str], command: Sequence[str], *, timeout_seconds: float
    ) -> Verification:
        """Ends the session with everything it started, then runs a command on its final files in a fresh process and folder.

        Args:
            files: hidden files, relative path -> text, that are put into the folder; they win over what lies there.
            command: program and arguments, run without a shell; `python` is the interpreter of the box.
            timeout_seconds: the command's; past it the exit code is None.
        Raises: WorldFailure(stage="score") where the box is lost or does not answer.
        """
        ...

    def close(self) -> None:
        """Ends the session and wipes what it left. Never raises; safe to call twice."""
        ...


def start_tables(sandbox: Sandbox, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows that a session of this seed starts with, in tables that only the sandbox itself knows (a foreign server's dump).

    Empty for a sandbox whose tables all come from the app's schema and seed function. Raises WorldFailure as `open` does.
    """
    tables = getattr(sandbox, "tables", None)
    return tables(seed) if tables else {}


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
