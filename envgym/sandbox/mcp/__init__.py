"""MCP servers as tools: any server of the Model Context Protocol, wrapped with its official SDK (extra `mcp`).

    dump.py         the tables that a server tells of itself: hash, difference, rows for tasks
    links.py        the way to a server: lines relayed by a box (stdio), or streamable HTTP
    connection.py   the SDK's client on that loop, asked by plain threads, with deadlines
    loop.py         the event loop's thread
    content.py      what a call takes and gives
    sandbox.py      `McpSandbox`: sessions, resets, servers that are kept and proven clean

Left out: prompts and resources of a server, signing in (OAuth), and answers to what a server asks (sampling, elicitation,
roots): it is told that this client cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from envgym.sandbox import Server


@dataclass(frozen=True, slots=True)
class ResetCall:
    """A tool of the server that makes its state that of a seed."""

    tool: str
    arguments: dict[str, Any]
    """`{seed}` and `{now}` in strings are filled in; a string that is nothing but `{seed}` becomes a number."""


@dataclass(frozen=True, slots=True)
class McpServer:
    """One server and what makes it an environment; the `mcp:` block of a YAML has the same fields."""

    link: Server | str
    """A command that runs in a box, or the URL of a streamable HTTP endpoint."""
    reset: Literal["restart", "session", "container"] | ResetCall
    """What makes an episode start clean: a new process, a new MCP session, a fresh box, or a call to a server that is kept."""
    hidden: tuple[str, ...] = ()
    """Tools that the model never sees; those of `reset` and `dump` are hidden anyway."""
    dump: str | None = None
    """Tool without arguments that answers `{table: [row, ...]}` as JSON: the whole state."""
    sessions: int | None = None
    """Episodes at once; further ones wait. None: as many as are asked for."""
    now: str = ""
    """Start of the episode's clock, ISO 8601."""
    volatile: tuple[str, ...] = ()
    """`table.column` patterns that the state's hash leaves out."""

    @property
    def name(self) -> str:
        return self.link if isinstance(self.link, str) else self.link.name
