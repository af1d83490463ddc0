"""Dialect `fenced`: JSON in code blocks marked json, tool_call, tool or not at all.

Other JSON in a block is text.
"""

from __future__ import annotations

import re

from envgym.dialects.json_calls import EXAMPLE, calls_from, is_call, refuse_long, write_json
from envgym.dialects.literals import MalformedCall, read_json
from envgym.messages import ToolCall

_FENCE = re.compile(
    r"^[ \t]*```(?:json|tool_call|tool)?[ \t]*\r?\n(?=\s*(?:\{|\[\s*\{))", re.MULTILINE
)
_FENCE_END = re.compile(r"[ \t]*```[ \t]*(?:\r?\n|\Z)")


def read(text: str) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    calls = []
    around = []
    end = 0
    while fence := _FENCE.search(text, end):
        refuse_long(text)
        value, after = read_json(text, fence.end())
        closing = _FENCE_END.match(text, after)
        if closing is None:
            raise MalformedCall("after the JSON of a call must come a line with ``` alone")
        if is_call(value):
            around.append(text[end : fence.start()])
            calls += calls_from(value)
        else:
            around.append(text[end : closing.end()])
        end = closing.end()
    return (calls, "".join([*around, text[end:]]).strip()) if calls else None


def write(call: ToolCall) -> str:
    """Return a call as text. Raises UsageError if JSON cannot express it."""
    return f"```json\n{write_json(call)}\n```"


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with:\n{write(EXAMPLE)}"
