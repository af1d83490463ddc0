"""Structured tool calls of a chat server, as messages of a conversation and as text.

An environment reads calls from text. The calls that a server has parsed are written in a dialect
that the environment reads, so that the environment makes the same calls. A call that the model got
wrong stays wrong.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from envgym.dialects import parse, write_calls
from envgym.dialects.known import Tools
from envgym.dialects.literals import MalformedCall, read_json
from envgym.errors import UsageError
from envgym.messages import ToolCall
from envgym.text import content_text

_PREFIXES = ("functions.", "function.", "tools.", "default_api.")
"""Prefixes that servers and families put before the name of a tool."""


def structured_calls(message: dict[str, Any], known: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the tool calls of a message, in the form in which a request repeats them.

    Servers differ in this form. A missing id or type is added; arguments that are an object become
    JSON; None and an empty text become `{}`; a prefix such as `functions.` is removed if a tool has
    the name without it. A call without a function gets one without a name, which the environment
    reports as malformed.

    Args:
        message: Message of the assistant.
        known: Names of the tools.
    """
    given = message.get("tool_calls") or []
    calls = given if isinstance(given, list) else [given]
    return [
        _structured(call if isinstance(call, dict) else {}, index, known)
        for index, call in enumerate(calls)
    ]


def _structured(call: dict[str, Any], index: int, known: Collection[str]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    name = function.get("name")
    plain = {
        "name": _own_name(name, known) if isinstance(name, str) else name,
        "arguments": _arguments_text(function.get("arguments")),
    }
    return call | {
        "id": call.get("id") or f"call_{index}",
        "type": "function",
        "function": function | plain,
    }


def _own_name(name: str, known: Collection[str]) -> str:
    for prefix in _PREFIXES:
        if name not in known and (short := name.removeprefix(prefix)) in known:
            return short
    return name


def _arguments_text(arguments: Any) -> str:
    if arguments is None or arguments == "":
        return "{}"
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def action_text(
    content: Any,
    calls: Sequence[dict[str, Any]],
    dialects: Sequence[str] = ("hermes",),
    known: Tools | None = None,
) -> str:
    """Return the action for an answer with structured calls: a text that the environment reads.

    The calls are written in the first dialect in which the environment reads exactly these calls.
    The text beside them is left out if no dialect has room for it.

    Args:
        content: Content of the message. A list of parts is the text of its parts.
        calls: Structured calls, as from `structured_calls`.
        dialects: Dialects that the environment reads, in order.
        known: Tools of the environment, with the schemas of their arguments.
    """
    text = content_text(content)
    if not calls:
        return text
    try:
        meant = [_call(call["function"]) for call in calls]
    except MalformedCall:
        return _joined(text, [_as_given(call["function"]) for call in calls])
    for beside in dict.fromkeys([text, ""]):
        for dialect in dialects:
            if (action := _written(beside, meant, dialect, dialects, known)) is not None:
                return action
    return _joined(text, [_as_given(call["function"]) for call in calls])


def _call(function: Mapping[str, Any]) -> ToolCall:
    """Return the call that a structured one means. Raises MalformedCall."""
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedCall("the call has no name")
    arguments, end = read_json(function["arguments"])
    if not isinstance(arguments, dict) or end < len(function["arguments"]):
        raise MalformedCall("the arguments of a call must be an object")
    return ToolCall(name, arguments)


def _written(
    text: str,
    calls: Sequence[ToolCall],
    dialect: str,
    dialects: Sequence[str],
    known: Tools | None,
) -> str | None:
    """Return a text with the calls if the environment reads them from it, otherwise None."""
    try:
        action = _joined(text, [write_calls(calls, dialect, known=known)])
    except UsageError:
        return None
    return action if list(parse(action, dialects, known=known).calls) == list(calls) else None


def _as_given(function: Mapping[str, Any]) -> str:
    """Return a call in the hermes dialect with its arguments unchanged, so that it stays wrong."""
    name = json.dumps(function.get("name"))
    return f'<tool_call>\n{{"name": {name}, "arguments": {function["arguments"]}}}\n</tool_call>'


def _joined(text: str, parts: Sequence[str]) -> str:
    return "\n".join([*([text] if text else []), *parts])
