"""Dialect `fenced`: JSON in code blocks marked json, tool_call, tool or not at all.

Other JSON in a block is text.
"""

from __future__ import annotations

import re

from envgym.dialects.json_calls import (
    EXAMPLE,
    calls_from,
    is_broken_call,
    is_call,
    refuse_long,
    write_json,
)
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, read_json
from envgym.messages import ToolCall

FAMILIES = "SmolLM2 and small models"
MARKS = ("```tool_call", "```tool_code")
_FENCE = re.compile(
    r"^[ \t]*```(?i:json|tool_calls?|tool)?[ \t]*\r?\n(?=\s*(?:\{|\[\s*\{))", re.MULTILINE
)
_FENCE_END = re.compile(r"[ \t]*```[ \t]*(?:\r?\n|\Z)")


def read(text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    calls = []
    around = []
    end = 0
    while fence := _FENCE.search(text, end):
        block, end_of_block = _read_block(text, fence.end(), known)
        calls += block
        around.append(text[end : fence.start() if block else end_of_block])
        end = end_of_block
    return (calls, "".join([*around, text[end:]]).strip()) if calls else None


def _read_block(text: str, start: int, known: Known | None) -> tuple[list[ToolCall], int]:
    """Return the calls of the block whose content starts there, and the index after the block."""
    closed = text.find("```", start)
    closed = len(text) if closed < 0 else closed
    try:
        refuse_long(text)
        value, after = read_json(text, start)
    except MalformedCall:
        if is_broken_call(text[start:closed], known):
            raise
        return [], closed
    if not is_call(value, known):
        return [], after
    closing = _FENCE_END.match(text, after)
    if closing is None:
        raise MalformedCall("after the JSON of a call must come a line with ``` alone")
    return calls_from(value), closing.end()


def write(call: ToolCall) -> str:
    """Return a call as text. Raises UsageError if JSON cannot express it."""
    return f"```json\n{write_json(call)}\n```"


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with:\n{write(EXAMPLE)}"
