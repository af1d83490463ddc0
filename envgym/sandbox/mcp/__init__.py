"""Tools from MCP servers, through the official Python SDK (extra `mcp`).

    dump.py         state reported by a server: hash, diff, rows for tasks
    links.py        transports: lines relayed by a box (stdio), or streamable HTTP
    connection.py   SDK client on an event loop, used from threads with timeouts
    sandbox.py      `McpSandbox`: sessions, resets, kept servers

Not supported: prompts, resources, OAuth, and requests from the server (sampling, elicitation,
roots); the client does not offer these capabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from envgym.sandbox import Server


@dataclass(frozen=True, slots=True)
class ResetCall:
    """Tool of the server that resets its state to a seed's state."""

    tool: str
    arguments: dict[str, Any]
    """Arguments. `{seed}` and `{now}` are replaced; a string that is exactly `{seed}` becomes an
    integer.
    """


@dataclass(frozen=True, slots=True)
class McpServer:
    """MCP server and its reset and state. The `mcp:` block of a YAML has the same fields."""

    link: Server | str
    """Command that runs in a box, or URL of a streamable HTTP endpoint, without credentials."""
    reset: Literal["restart", "session", "container"] | ResetCall
    """Reset before each episode: a new process, a new MCP session, a fresh box, or a call of a
    reset tool.
    """
    hidden: tuple[str, ...] = ()
    """Tools hidden from the model. The tools of `reset` and `dump` are always hidden."""
    dump: str | None = None
    """Tool without arguments that returns the whole state as JSON: `{table: [row, ...]}`."""
    sessions: int | None = None
    """Maximum number of concurrent episodes; further ones wait. `None` means no limit."""
    now: str = ""
    """Start of the episode's clock in ISO 8601."""
    volatile: tuple[str, ...] = ()
    """`table.column` patterns excluded from the state hash."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of every request to a URL. They are sent to its host only."""

    @property
    def name(self) -> str:
        return self.link if isinstance(self.link, str) else self.link.name
