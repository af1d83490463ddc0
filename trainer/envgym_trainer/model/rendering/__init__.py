"""Render conversations to token ids, and read answers of a model back into messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from envgym.messages import Message, ToolCall

ChatMessage = dict[str, Any]
"""Message in OpenAI's form, with the arguments of each call as a dict:
`{role, content, reasoning_content, tool_calls: [{id, type, function: {name, arguments}}],
tool_call_id, name}`."""

Tools = Sequence[dict[str, Any]]
"""Tool schemas in OpenAI's function format."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model, read from its text."""

    reasoning: str = ""
    """Text of the reasoning, without its marks."""
    content: str = ""
    """Text outside of the reasoning and the calls."""
    calls: tuple[ToolCall, ...] = ()
    problem: str = ""
    """Error message for the model, if the text attempts a call that cannot be read."""


@dataclass(frozen=True, slots=True)
class Extension:
    """Ids that follow a sampled turn."""

    ids: list[int]
    """Missing end of the turn, new messages and generation prompt."""
    rewritten: str = ""
    """Place in which the template renders its past in another way than before; empty if it only
    appends."""
    prompt: list[int] = field(default_factory=list)
    """Ids of the whole rewritten conversation, with the generation prompt, if it is rewritten."""


class Renderer(Protocol):
    """Converter of one family of chat templates. Not safe to share between threads."""

    adapters: tuple[str, ...]
    """Names of the adapters in force."""

    def open(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        """Return the ids of a prompt, with the generation prompt."""
        ...

    def render_ids(
        self, messages: Sequence[ChatMessage], tools: Tools, *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Return the ids of a conversation in OpenAI's form."""
        ...

    def shared(self, messages: Sequence[Message], tools: Tools) -> int:
        """Return how many of the first `open` ids belong to the system message."""
        ...

    def extend(
        self, history: Sequence[Message], new: Sequence[Message], tools: Tools, *, closed: bool
    ) -> Extension:
        """Return the ids that follow a sampled turn, which is the last message of `history`."""
        ...
