"""What may stand in `tools:`: files of Python or OpenAPI as their names, live APIs and MCP servers as blocks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from envgym.block import Block


class OperationCall(Block):
    operation: str
    """Name of an operation, in snake_case."""
    arguments: dict[str, Any] = Field(default_factory=dict)


class OpenApiTools(Block):
    """A live API as tools: calls go from this machine to `base_url`, and nowhere else."""

    openapi: str
    """OpenAPI 3 document, `orders/openapi.yaml` for every operation or `orders/openapi.yaml:name` for one."""
    base_url: str = Field(pattern=r"^https?://[^/\s]+")
    """Where the server is; its host is the only one that is called."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every call; `env:NAME` takes the value from an environment variable, `{session}` names the episode."""
    reset: OperationCall | None = None
    """Called when an episode opens, with the episode's `seed` where it takes one. Hidden from the model."""
    dump: str | None = None
    """Operation that answers {table: [row, ...]}, from which the state's hash and diff are made. Hidden from the model."""


class McpReset(Block):
    tool: str
    """Tool of the server that makes its state that of a seed; the model never sees it."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments; `{seed}` and `{now}` in strings are filled in, `"{seed}"` alone becomes a number."""


Reset = Annotated[
    Annotated[Literal["restart", "session", "container"], Tag("<word>")]
    | Annotated[McpReset, Tag("<call>")],
    Discriminator(lambda value: "<call>" if isinstance(value, dict | McpReset) else "<word>"),
]


class McpSpec(Block):
    command: tuple[str, ...] = ()
    """Starts the server in the box, in the YAML's folder: `[python, notes/server.py]`; `python` is the box's own."""
    url: str | None = Field(default=None, pattern=r"^https?://")
    """Instead of a command: a streamable HTTP endpoint, called from the host; the server is not isolated by envgym."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables for the command; ENVGYM_SEED (with `reset: restart`) and ENVGYM_NOW come by themselves."""
    reset: Reset | None = None
    """How an episode starts clean. For a command `restart`, a new process each time (the default), `container`, a fresh box, or
    `{tool: NAME}`, a call to a server that is kept. For a URL `session`, a new MCP session, or `{tool: NAME}`."""
    hidden: tuple[str, ...] = ()
    """Tools that the model never sees."""
    dump: str | None = None
    """Tool whose JSON `{table: [row, ...]}` is the whole state: tasks draw from it, and the reward compares it."""
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Table of the dump -> columns of its primary key."""
    sessions: int | None = Field(default=None, ge=1)
    """Episodes at once, others wait; 1 for a URL, whose episodes may share a state, and no limit for a command."""

    @model_validator(mode="after")
    def _complete(self) -> McpSpec:
        if bool(self.command) == bool(self.url):
            raise ValueError(
                "give either `command` (a server in the box) or `url` (one that runs already)"
            )
        words = ("session",) if self.url else ("restart", "container")
        if isinstance(self.reset, str) and self.reset not in words:
            raise ValueError(
                f"reset: '{self.reset}' is not for {'a url' if self.url else 'a command'}; {' or '.join(words)} is"
            )
        if self.url and self.reset is None:
            raise ValueError(
                "reset: a server at a URL is not restarted; say `{tool: NAME}`, or `session` where each has its own state"
            )
        if self.dump and not self.keys:
            raise ValueError(
                "keys: name the primary key of each table of the dump, such as `keys: {notes: [id]}`"
            )
        return self


class McpTools(Block):
    mcp: McpSpec


def _kind(value: Any) -> str:
    # In brackets, as a tag is no key that a person wrote: `loading.explain` leaves it out.
    if isinstance(value, McpTools) or (isinstance(value, dict) and "mcp" in value):
        return "<mcp>"
    return "<live>" if isinstance(value, dict | OpenApiTools) else "<file>"


ToolSource = Annotated[
    Annotated[str, Tag("<file>")]
    | Annotated[OpenApiTools, Tag("<live>")]
    | Annotated[McpTools, Tag("<mcp>")],
    Discriminator(_kind),
]
"""What one entry of `tools:` may be."""
