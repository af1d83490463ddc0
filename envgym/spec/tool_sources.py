"""Schema of `tools:` entries: names of Python or OpenAPI files, live APIs and MCP servers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from envgym.block import Block
from envgym.secrets.references import has_reference


def _is_url(text: str) -> str:
    # A variable that is not set yet is checked when the URL is used.
    if not has_reference(text) and not re.match(r"https?://[^/\s]+", text):
        raise ValueError("must be a URL that begins with http:// or https://")
    return text


Url = Annotated[str, AfterValidator(_is_url)]
"""URL of a server."""


class OperationCall(Block):
    """Call of one operation of the API."""

    operation: str
    """Name of an operation, in snake_case."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the operation."""


class OpenApiTools(Block):
    """Live API as tools. Calls go from this machine to `base_url` only."""

    openapi: str
    """OpenAPI 3 document: `orders/openapi.yaml` for every operation or `orders/openapi.yaml:name`
    for one."""
    base_url: Url
    """URL of the server. No other host is called. A user and a password in it are sent as the
    header Authorization, and shown nowhere."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every call, sent to the host of `base_url` only. `env:NAME` is replaced by an
    environment variable, `{session}` by the name of the episode's session."""
    reset: OperationCall | None = None
    """Operation called when an episode starts, with the episode's `seed` if it accepts one. Hidden
    from the model."""
    dump: str | None = None
    """Operation that returns {table: [row, ...]}, used for the state's hash and diff. Hidden from
    the model."""


class McpReset(Block):
    """Tool call that resets an MCP server."""

    tool: str
    """Tool of the server that resets its state to a seed. Hidden from the model."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the tool. `{seed}` and `{now}` in strings are replaced; `"{seed}"` alone becomes
    a number."""


Reset = Annotated[
    Annotated[Literal["restart", "session", "container"], Tag("<word>")]
    | Annotated[McpReset, Tag("<call>")],
    Discriminator(lambda value: "<call>" if isinstance(value, dict | McpReset) else "<word>"),
]


class McpSpec(Block):
    """MCP server: its start, its reset and its state."""

    command: tuple[str, ...] = ()
    """Command that starts the server in the box, in the YAML's folder: `[python, notes/server.py]`.
    `python` is the interpreter of the box."""
    url: Url | None = None
    """Streamable HTTP endpoint, as an alternative to a command. It is called from the host; envgym
    does not isolate the server."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every request to `url`, such as `{Authorization: "Bearer ${env:NAME}"}`. They are
    sent to its host only."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the command, such as `{TOKEN: "env:NAME"}`. ENVGYM_SEED (with
    `reset: restart`) and ENVGYM_NOW are always set."""
    reset: Reset | None = None
    """Way to reset the state at the start of an episode. For a command: `restart`, a new process
    each time (the default), `container`, a new container, or `{tool: NAME}`, a call to a server
    that keeps running. For a URL: `session`, a new MCP session, or `{tool: NAME}`."""
    hidden: tuple[str, ...] = ()
    """Tools hidden from the model."""
    dump: str | None = None
    """Tool whose JSON result `{table: [row, ...]}` is the whole state. Tasks are drawn from it and
    the reward compares it."""
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Columns of the primary key of each table in the dump."""
    sessions: int | None = Field(default=None, ge=1)
    """Maximum number of episodes at the same time; further ones wait. Default: 1 for a URL, whose
    episodes may share a state, and no limit for a command."""

    @model_validator(mode="after")
    def _complete(self) -> McpSpec:
        if bool(self.command) == bool(self.url):
            raise ValueError(
                "give either `command` (a server in the box) or `url` (one that runs already)"
            )
        if self.headers and not self.url:
            raise ValueError("headers: only a server with a `url` gets headers; use `env`")
        words = ("session",) if self.url else ("restart", "container")
        if isinstance(self.reset, str) and self.reset not in words:
            raise ValueError(
                f"reset: '{self.reset}' does not work with "
                f"{'a url' if self.url else 'a command'}; use {' or '.join(words)}"
            )
        if self.url and self.reset is None:
            raise ValueError(
                "reset: a server at a URL cannot be restarted; set `{tool: NAME}`, "
                "or `session` if each session has a separate state"
            )
        if self.dump and not self.keys:
            raise ValueError(
                "keys: name the primary key of each table of the dump, "
                "such as `keys: {notes: [id]}`"
            )
        return self


class McpTools(Block):
    """MCP server as tools."""

    mcp: McpSpec


def _kind(value: Any) -> str:
    # Tags are in angle brackets, because error messages omit path elements in this form: a tag is
    # not a key of the YAML.
    if isinstance(value, McpTools) or (isinstance(value, dict) and "mcp" in value):
        return "<mcp>"
    return "<live>" if isinstance(value, dict | OpenApiTools) else "<file>"


ToolSource = Annotated[
    Annotated[str, Tag("<file>")]
    | Annotated[OpenApiTools, Tag("<live>")]
    | Annotated[McpTools, Tag("<mcp>")],
    Discriminator(_kind),
]
"""Type of one entry of `tools:`."""
