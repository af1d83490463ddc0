"""Render conversations to token ids, and read answers of a model back into messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envgym.messages import ToolCall

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
