"""Convert between messages in OpenAI's form and envgym's `Message`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.errors import UsageError
from envgym.messages import Message, ToolCall


def text_messages(messages: Sequence[Mapping[str, Any]], dialect: str) -> list[Message]:
    """Return messages whose tool calls are text in a dialect, as a model has to write them.

    Raises:
        UsageError: If the dialect cannot express a call, or arguments are no JSON object.
    """
    return [_text_message(message, dialect) for message in messages]


def calls_of(message: Mapping[str, Any]) -> list[ToolCall]:
    """Return the calls in `tool_calls` of a message. Arguments may be a dict or JSON text.

    Raises:
        UsageError: If the arguments of a call are no JSON object.
    """
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or call
        name, arguments = str(function.get("name")), function.get("arguments") or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = None
        if not isinstance(arguments, dict):
            raise UsageError(f"the arguments of the call of '{name}' must be a JSON object.")
        found.append(ToolCall(name, arguments))
    return found


def _text_message(message: Mapping[str, Any], dialect: str) -> Message:
    plain = Message.from_dict(message)
    if not (calls := calls_of(message)):
        return plain
    written = [render_call(call, dialect) for call in calls]
    text = "\n".join([*([plain.content] if plain.content else []), *written])
    return Message(plain.role, text, name=plain.name)
