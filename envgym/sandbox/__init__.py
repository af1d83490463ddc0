"""Contract between an environment and the boxes in which its tools run.

A `Sandbox` owns boxes (processes or containers), each running the same stdlib-only `agent/`. A
`Session` is one episode's share of a box: a private copy of the state and the tools that use it.

>>> from envgym import App, open_sandbox
>>> sandbox = open_sandbox(App(Path("examples"), ("desk/tools.py",), schema="desk/schema.sql"))
>>> session = sandbox.open(seed=7, timeout_seconds=10)
>>> arguments = {"meeting": "M1", "room": 3}
>>> session.call("set_room", arguments, now="2026-03-02T09:00:00", timeout_seconds=10).text
'no meeting M1'
>>> session.close(), sandbox.close()
(None, None)

If a box fails, methods raise `WorldFailure`. If a tool refuses or fails, the result has `ok=False`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from envgym.sandbox.statistics import Statistics
from envgym.text import clean

Isolation = Literal["state", "fork", "namespaces", "container"]
VERIFY_SECONDS = 10.0
"""Seconds to copy the final files to a check, in addition to the check's time limit."""


@dataclass(frozen=True, slots=True)
class Server:
    """MCP server that a session of a box can run; `BoxSession.exchange` sends it JSON-RPC lines."""

    name: str
    command: tuple[str, ...]
    """Command, run in the app's folder. `python` is the interpreter that runs the agent."""
    env: dict[str, str] = field(repr=False)
    """Additional environment variables. ENVGYM_SEED (the session's seed) is always set."""


@dataclass(frozen=True, slots=True)
class App:
    """Tools and state that are loaded into a box: a folder and files in it."""

    root: Path
    """Folder that the box can read (read-only in a container). Other paths are relative to it."""
    tools: tuple[str, ...]
    """Tool files: Python (`crm/tools.py` for every public function, `crm/tools.py:name` for one) or
    OpenAPI documents, with the same syntax.
    """
    schema: str | None = None
    """SQL file with the tables. `None` for an app without tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables. Equal seeds must give equal rows."""
    files: str | None = None
    """`file.py:function(folder, seed)` that lays out the work folder. Equal seeds must give equal
    files.
    """
    servers: tuple[Server, ...] = ()
    """MCP servers. Files below `root` that their commands name are loaded too."""
    watch: tuple[str, ...] = ()
    """Tables (patterns) whose writes are recorded at each call, even if they are undone later."""
    hidden: tuple[str, ...] = ()
    """Files below `root` that no box may contain, such as tasks with hidden answers (`hidden.py`).

    No box gets them, except a local process that cannot isolate itself.
    """
    extra_files: tuple[str, ...] = ()
    """Glob patterns below `root` of further files that the boxes need, such as data that a tool
    reads. Python files that tools, seed, layout and servers import are found without it.
    """


@dataclass(frozen=True, slots=True)
class ToolResult:
    """Result of one tool call."""

    text: str
    """Text shown to the model. Longer output is cut with a marker."""
    ok: bool = True
    """False if the tool refused the call or failed; the text is then the message."""
    seconds: float = 0.0
    """Time inside the tool in seconds, measured in the box."""
    writes: Sequence[str] = ()
    """Watched tables that the call wrote to. A refused call has none, because it is rolled back."""
    fault: str = ""
    """Failure of the tool with file and line, for its author. Empty if the tool did not fail."""
    is_late: bool = False
    """Whether the call was stopped at its time limit. It then has a fault."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean(self.text))
        object.__setattr__(self, "fault", clean(self.fault))


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of a task's hidden test command on the final files."""

    exit_code: int | None
    """Exit code of the command, negative for a signal.

    `None` if it did not end in time, could not be started, or had no files to check.
    """
    output: str
    """End of the command's output, or the reason why there is no exit code."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", clean(self.output))

    @property
    def passed(self) -> bool:
        return self.exit_code == 0


RowChanges = dict[str, dict[str, list[dict[str, Any]]]]
"""Table to {"added": [row, ...], "removed": [row, ...]}, compared with the start of the session.

Changed files are the table `files` (path, kind, mode, text), changed schema objects the table
`sqlite_schema` and numbers of the database header `sqlite_pragma` (name, value). A blob is
`{"blob": "00ff"}`. Unchanged tables are omitted. A changed row is in both lists; the state diff of
`envgym` pairs them by primary key.
"""


class Session(Protocol):
    """Share of a box that serves one episode."""

    state_hash: str
    """Hash of the start state. Equal for equal tables with any backend."""

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        """Run one tool.

        Args:
            tool: Name of a tool of the app.
            arguments: Arguments, already validated against the tool's schema.
            now: Virtual time of the episode in ISO 8601. A tool sees no other time.
            timeout_seconds: Time limit. When it expires the call is stopped. If the session
                survives that, the result has a fault.

        Raises:
            WorldFailure: Kind `sandbox_lost` (the box ended or broke the protocol), `session_gone`
                (the box has no such session), `session_ended` (its process ended during the call),
                `out_of_memory` (killed by the kernel), `state_lost` (the database cannot be used),
                `server_lost` (an MCP server ended), `server_down` (a live server answers nothing),
                or `timeout` (the call could not be stopped).
        """
        ...

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        """Return the changes since the start of the session. Raises WorldFailure as `call` does.

        The session goes on. In a box with processes of its own for each session, a separate process
        reads the state, so that code in the session cannot forge it. State that cannot be compared,
        such as a damaged database, is one row of the table `[state]`.
        """
        ...

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        """End the session's processes, then return the changes since its start.

        The state is read once, when no process of the session can change it. No tool can be called
        afterwards.

        Args:
            timeout_seconds: Time limit.
            keep_files: Keep the final files for `verify`.

        Raises:
            WorldFailure: Stage `diff`, if the box is lost or overloaded.
        """
        ...

    def verify(
        self,
        files: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
        inputs: Mapping[str, str] | None = None,
    ) -> Verification:
        """Run a command on the session's final files in a fresh box.

        The files are those that `finish` has kept. If it was not called, the session is finished
        first.

        Args:
            files: Hidden files, relative path to text. The test finds them at their path in the
                folder; the programs that it starts do not.
            command: Program and arguments, run without a shell. `python` is the box's interpreter.
            timeout_seconds: Time limit of the command. When it expires the exit code is `None`.
            inputs: Files that the programs may read, too. They replace existing files.

        Raises:
            WorldFailure: Stage `score`, if the session's box is lost or no box can be started.
            SpecError: If the command cannot be kept from the model's code.
            PrerequisiteError: If no box here can keep programs from the test.
        """
        ...

    def close(self) -> None:
        """End the session and remove its files and processes. Never raises; safe to call twice."""
        ...


class Sandbox(Protocol):
    """Pool of boxes for one app. Safe to share between threads."""

    label: str
    """One line with the backend, the isolation level and its limits, for users."""

    @property
    def statistics(self) -> Statistics | None:
        """Counts and timings; None if the sandbox does not measure them."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """Return the app's tools as OpenAI function schemas, derived in the box from the code."""
        ...

    def open(self, *, seed: int, timeout_seconds: float) -> Session:
        """Open a session with a fresh state for `seed`.

        Raises:
            WorldFailure: Stage `open`. Kind `sandbox_lost`, `timeout`, `seed_crashed` (the seed
                function raised) or `sandbox_full` (the box has no free process).
            PrerequisiteError: If the very first box does not start.
            SpecError: If the app cannot be loaded.
        """
        ...

    def tables(self, seed: int) -> dict[str, list[dict[str, Any]]]:
        """Return the start tables that only the sandbox can provide (an MCP server's dump).

        Empty if all tables come from the app's schema and seed function.

        Raises:
            WorldFailure: As `open` does.
        """
        ...

    def close(self) -> None:
        """End all boxes. Safe to call twice."""
        ...
