"""Calls as JSON objects, `{"name": ..., "arguments": {...}}`, shared by many dialects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from envgym.dialects.known import Known, is_near
from envgym.dialects.literals import MalformedCall, excerpt
from envgym.errors import UsageError
from envgym.messages import ToolCall

MAX_CHARACTERS = 200_000
"""Maximum length of an attempted call. Python's parser needs about 100 bytes of memory per
character."""
EXAMPLE = ToolCall("look_up", {"word": "tree"})
"""Call of the examples. It holds no number and no name, which could be the answer of a task."""
_NAME_KEY = re.compile(r"""["'](?:tool_?|function_?)?name["']\s*:""")
_ARGUMENTS_KEY = re.compile(r"""["'](?:arguments|parameters|args)["']\s*:""")


def write_json(call: ToolCall, *, arguments: str = "arguments") -> str:
    """Return a call as JSON. Raises UsageError if JSON cannot express it."""
    return dump({"name": call.name, arguments: call.arguments}, call.name)


def dump(value: Any, name: str) -> str:
    """Return a value of the call of a tool as JSON. Raises UsageError if JSON has no such value."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise UsageError(f"the call of '{name}' cannot be written as JSON: {problem}") from None


def refuse_long(text: str) -> None:
    """Raise MalformedCall if a text with an attempted call is too long to parse."""
    if len(text) > MAX_CHARACTERS:
        raise MalformedCall(
            f"the call is too long: {len(text)} characters, at most {MAX_CHARACTERS}"
        )


def read_blocks(
    text: str, mark: str, read_block: Callable[[str, int], tuple[list[ToolCall], int]]
) -> tuple[list[ToolCall], str]:
    """Return the calls of all blocks that begin with a mark, and the text around them.

    Args:
        text: Answer.
        mark: Mark of a block's begin.
        read_block: Function of the text and the index after a mark. It returns the calls of the
            block and the index after it.

    Raises:
        MalformedCall: If a block cannot be parsed, or the text is too long.
    """
    refuse_long(text)
    calls: list[ToolCall] = []
    around: list[str] = []
    end = 0
    while (start := text.find(mark, end)) >= 0:
        around.append(text[end:start])
        block, end = read_block(text, start + len(mark))
        calls += block
    return calls, "".join([*around, text[end:]]).strip()


def is_call(value: Any, known: Known | None = None) -> bool:
    """Return whether JSON is meant as a call, valid or not. Other JSON is an answer.

    A call has a name and arguments, or names a tool. `{"name": "Ann"}` is an answer.
    """
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict) or not isinstance(name := first.get("name"), str):
        return False
    arguments = first.get("arguments")
    if known is None:
        return "arguments" in first
    return is_near(name, known) or isinstance(arguments, dict)


def is_broken_call(text: str, known: Known | None = None) -> bool:
    """Return whether a text that is not valid JSON is meant as a call."""
    if not _NAME_KEY.search(text):
        return False
    if known is None or _ARGUMENTS_KEY.search(text):
        return True
    return any(f'"{name}"' in text for name in known)


def calls_from(value: Any, *, arguments: str = "arguments") -> list[ToolCall]:
    """Return the calls in JSON: one object or a list. Raises MalformedCall."""
    values = value if isinstance(value, list) else [value]
    return [call_from(item, arguments=arguments) for item in values]


def call_from(
    value: Any, *, name: str = "name", arguments: str = "arguments", ignored: tuple[str, ...] = ()
) -> ToolCall:
    """Return the call in a JSON object.

    Args:
        value: The object.
        name: Key of the name.
        arguments: Key of the arguments.
        ignored: Further keys that a family writes, such as the id of a call.

    Raises:
        MalformedCall: If the object is no call.
    """
    form = f'{{"{name}": ..., "{arguments}": {{...}}}}'
    if not isinstance(value, dict):
        raise MalformedCall(f"a call must be an object {form}, got {excerpt(json.dumps(value))}")
    if missing := [key for key in (name, arguments) if key not in value]:
        raise MalformedCall(f"the call has no '{missing[0]}'; its form is {form}")
    if extra := [key for key in value if key not in (name, arguments, *ignored)]:
        raise MalformedCall(
            f"the call has an unknown key '{excerpt(extra[0])}'; its form is {form}"
        )
    if not isinstance(value[name], str) or not value[name]:
        raise MalformedCall(
            f"the name of a call must be a string, got {excerpt(json.dumps(value[name]))}"
        )
    if not isinstance(value[arguments], dict):
        raise MalformedCall(
            f"the {arguments} of a call must be an object, "
            f"got {excerpt(json.dumps(value[arguments]))}"
        )
    return ToolCall(value[name], value[arguments])
