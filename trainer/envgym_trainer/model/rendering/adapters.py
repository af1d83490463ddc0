"""Adapters of conversations for chat templates that do not take every role.

A template is probed by rendering, not by its text. Each adapter is a function from messages to
messages. The names of those in force are recorded with the adapter of a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from envgym.errors import UsageError
from envgym_trainer.model.rendering import ChatMessage, Tools

ID_LENGTH = 9
"""Length of the ids of calls. Mistral's templates refuse any other."""


class Render(Protocol):
    """Function that renders a conversation with a template as it is."""

    def __call__(
        self, messages: Sequence[ChatMessage], tools: Tools = (), *, prompt: bool = False
    ) -> str: ...


def system_in_user_turn(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Put the system message before the first user message."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0]["role"] == "user":
        first = rest[0] | {"content": _joined(system["content"], rest[0]["content"])}
        return [first, *rest[1:]]
    return [system | {"role": "user"}, *rest]


def results_as_user_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Turn each result of a tool into a user message."""
    return [
        {"role": "user", "content": message["content"]} if message["role"] == "tool" else message
        for message in messages
    ]


def merged_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Merge consecutive messages of one role."""
    merged: list[ChatMessage] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = merged[-1] | {
                "content": _joined(merged[-1]["content"], message["content"])
            }
        else:
            merged.append(message)
    return merged


def arguments_as_json_text(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Write the arguments of calls as JSON text, for templates that do not take objects."""
    return [
        message | {"tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


ADAPTERS: Mapping[str, Callable[[Sequence[ChatMessage]], list[ChatMessage]]] = {
    "system_in_user_turn": system_in_user_turn,
    "results_as_user_turns": results_as_user_turns,
    "merged_turns": merged_turns,
    "arguments_as_json_text": arguments_as_json_text,
}
"""All adapters, in the order in which they are applied."""


def adapt(messages: Sequence[ChatMessage], names: Sequence[str]) -> list[ChatMessage]:
    """Apply adapters to a conversation."""
    adapted = list(messages)
    for name, adapter in ADAPTERS.items():
        if name in names:
            adapted = adapter(adapted)
    return adapted


def text_adapters(render: Render) -> tuple[str, ...]:
    """Return the adapters with which a template renders every role of a text conversation.

    Raises:
        UsageError: If there are none.
    """
    user, answer = _message("user"), _message("assistant")
    names = []
    if not _shows(render, [_message("system"), user]):
        names.append("system_in_user_turn")
    if not _shows(render, [user, answer, _message("tool")]):
        names.append("results_as_user_turns")
    role = "user" if "results_as_user_turns" in names else "tool"
    if not _shows(render, [user, answer, _message(role), _message(role, "Other")]):
        names.append("merged_turns")
    whole = [_message("system"), user, answer, _message("tool"), _message("tool", "Other")]
    if not _shows(render, adapt(whole, names)):
        raise UsageError(
            "the model's chat template drops or refuses messages of a plain conversation. Use an "
            "instruct (chat) model."
        )
    return tuple(names)


PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "zqtool",
        "description": "zqdescription",
        "parameters": {
            "type": "object",
            "properties": {"zqargument": {"type": "string", "description": "zqmeaning"}},
            "required": ["zqargument"],
        },
    },
}
PROBE_CALL: ChatMessage = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00000",
            "type": "function",
            "function": {"name": "zqtool", "arguments": {"zqargument": "zqvalue"}},
        }
    ],
}
PROBE_RESULT: ChatMessage = {
    "role": "tool",
    "tool_call_id": "call00000",
    "name": "zqtool",
    "content": "zqresult",
}


def native_adapters(render: Render) -> tuple[str, ...] | None:
    """Return the adapters with which a template renders tools, calls and results, or None."""
    for arguments in ((), ("arguments_as_json_text",)):
        for system in ((), ("system_in_user_turn",)):
            if _takes_tools(render, (*system, *arguments)):
                return (*system, *arguments)
    return None


def _takes_tools(render: Render, names: Sequence[str]) -> bool:
    opening = adapt([_message("system"), _message("user")], names)
    whole = adapt([_message("system"), _message("user"), PROBE_CALL, PROBE_RESULT], names)
    try:
        prompt = render(opening, [PROBE_TOOL], prompt=True)
        text = render(whole, [PROBE_TOOL], prompt=True)
    except UsageError:
        return False
    shown = ("zqsystem", "zquser", "zqtool", "zqargument")
    after = ("zqvalue", "zqresult")
    return all(word in prompt for word in shown) and all(word in text for word in (*shown, *after))


def _shows(render: Render, messages: Sequence[ChatMessage]) -> bool:
    """Return whether a template renders the content of each message."""
    try:
        text = render(messages, prompt=True)
    except UsageError:
        return False
    contents = [part for message in messages for part in message["content"].split("\n\n")]
    return all(part in text for part in contents)


def _message(role: str, more: str = "") -> ChatMessage:
    return {"role": role, "content": f"zq{role}{more}"}


def _joined(one: str, other: str) -> str:
    return f"{one}\n\n{other}" if one and other else one or other


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return call
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return call | {"function": function | {"arguments": text}}
