"""Convert between envgym's messages and messages in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envgym.dialects import write_calls
from envgym.errors import UsageError
from envgym.messages import Message, ToolCall
from envgym.text import content_text
from envgym_trainer.model.rendering import Answer, ChatMessage


def text_messages(messages: Sequence[Mapping[str, Any]], dialect: str) -> list[Message]:
    """Return messages whose tool calls are text in a dialect, as a model has to write them.

    Raises:
        UsageError: If the dialect cannot express a call, or arguments are no JSON object.
    """
    return [_text_message(message, dialect) for message in messages]


def plain_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """Return messages with their text alone."""
    return [{"role": message.role, "content": message.content} for message in messages]


def structured_messages(
    messages: Sequence[Message], read: Callable[[str], Answer]
) -> list[ChatMessage]:
    """Return messages with reasoning and tool calls of their own, as templates take them.

    Each result of a tool belongs to the next call that has none. A message of role `tool` without
    such a call, as after an answer that cannot be parsed, keeps its role and has no id.

    Args:
        messages: Messages of an episode. The calls of an answer are part of its text.
        read: Parses an answer.
    """
    found: list[ChatMessage] = []
    open_calls: list[dict[str, Any]] = []
    count = 0
    for message in messages:
        if message.role == "assistant":
            answer = read(message.content)
            found.append(assistant_message(answer, first=count))
            open_calls = list(found[-1].get("tool_calls", ()))
            count += len(open_calls)
        elif message.role == "tool" and open_calls:
            call = open_calls.pop(0)
            found.append(
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "name": call["function"]["name"],
                    "content": message.content,
                }
            )
        else:
            found.append(dict(message.to_dict()))
    return found


def assistant_message(answer: Answer, *, first: int = 0) -> ChatMessage:
    """Return an answer as a message, with ids of its calls that count from `first`."""
    message: ChatMessage = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": f"call{number:05d}",  # Mistral's templates refuse any other length
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(answer.calls, first)
        ]
    return message


def normalized_messages(messages: Sequence[Mapping[str, Any]]) -> list[ChatMessage]:
    """Return the messages of a client in the form in which templates take them.

    Content that is a list of parts becomes its text, missing content becomes empty, arguments
    become dicts, and a result of a tool gets the name of its call.

    Raises:
        UsageError: If the arguments of a call are no JSON object.
    """
    found: list[ChatMessage] = []
    names: dict[str, str] = {}
    for message in messages:
        plain: ChatMessage = {
            "role": message["role"],
            "content": content_text(message.get("content")),
        }
        for key in ("reasoning_content", "tool_call_id", "name"):
            if message.get(key):
                plain[key] = message[key]
        if calls := calls_of(message):
            plain["tool_calls"] = [
                {
                    "id": given.get("id") or f"call{number:05d}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for number, (given, call) in enumerate(
                    zip(message["tool_calls"], calls, strict=True)
                )
            ]
            names |= {call["id"]: call["function"]["name"] for call in plain["tool_calls"]}
        if plain["role"] == "tool" and "name" not in plain and plain.get("tool_call_id") in names:
            plain["name"] = names[plain["tool_call_id"]]
        found.append(plain)
    return found


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
    parts = [plain.content] if plain.content else []
    text = "\n".join([*parts, write_calls(calls, dialect)])
    return Message(plain.role, text, name=plain.name)
