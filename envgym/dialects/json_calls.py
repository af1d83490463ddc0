"""Calls as JSON objects, `{"name": ..., "arguments": {...}}`, shared by three dialects."""

from __future__ import annotations

import json
from typing import Any

from envgym.dialects.literals import MalformedCall, excerpt
from envgym.errors import UsageError
from envgym.messages import ToolCall

MAX_CHARACTERS = 200_000
"""Maximum length of an attempted call. Python's parser needs about 100 bytes of memory per
character."""
EXAMPLE = ToolCall("look_up", {"word": "tree"})
"""Call of the examples. It holds no number and no name, which could be the answer of a task."""


def write_json(call: ToolCall) -> str:
    """Return a call as JSON. Raises UsageError if JSON cannot express it."""
    try:
        return json.dumps(call.to_dict(), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"the call of '{call.name}' cannot be written as JSON: {problem}"
        ) from None


def refuse_long(text: str) -> None:
    """Raise MalformedCall if a text with an attempted call is too long to parse."""
    if len(text) > MAX_CHARACTERS:
        raise MalformedCall(
            f"the call is too long: {len(text)} characters, at most {MAX_CHARACTERS}"
        )


def is_call(value: Any) -> bool:
    """Return whether JSON is meant as a call, valid or not. Other JSON is an answer."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and ("arguments" in first or "name" in first)


def calls_from(value: Any) -> list[ToolCall]:
    """Return the calls in JSON: one object or a list. Raises MalformedCall."""
    return [call_from(item) for item in value] if isinstance(value, list) else [call_from(value)]


def call_from(value: Any) -> ToolCall:
    """Return the call in a JSON object. Raises MalformedCall."""
    form = '{"name": ..., "arguments": {...}}'
    if not isinstance(value, dict):
        raise MalformedCall(f"a call must be an object {form}, got {excerpt(json.dumps(value))}")
    if missing := [key for key in ("name", "arguments") if key not in value]:
        raise MalformedCall(f"the call has no '{missing[0]}'; its form is {form}")
    if extra := [key for key in value if key not in ("name", "arguments")]:
        raise MalformedCall(
            f"the call has an unknown key '{excerpt(extra[0])}'; its form is {form}"
        )
    if not isinstance(value["name"], str) or not value["name"]:
        raise MalformedCall(
            f"the name of a call must be a string, got {excerpt(json.dumps(value['name']))}"
        )
    if not isinstance(value["arguments"], dict):
        raise MalformedCall(
            "the arguments of a call must be an object, "
            f"got {excerpt(json.dumps(value['arguments']))}"
        )
    return ToolCall(value["name"], value["arguments"])
