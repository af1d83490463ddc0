"""Dialect `pythonic`: Python calls, one a line or in a list.

look_up(id="A1")

A text is an attempt if it starts with an identifier directly followed by "(", and is a call or
names a tool: "Meeting(s) moved." is an answer. Only keyword arguments with literal values are
allowed. No code is evaluated.
"""

from __future__ import annotations

import re

from envgym.dialects.json_calls import EXAMPLE, refuse_long
from envgym.dialects.known import Known, is_near
from envgym.dialects.literals import (
    DOTTED_NAME,
    MalformedCall,
    read_python_calls,
    write_python_call,
)
from envgym.messages import ToolCall

FAMILIES = "ours, short and easy to learn"
_STARTS_LIKE_CALL = re.compile(rf"\[?\s*({DOTTED_NAME})\(")


def read(text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    stripped = text.strip()
    if not (start := _STARTS_LIKE_CALL.match(stripped)):
        return None
    try:
        refuse_long(stripped)
        return read_python_calls(stripped), ""
    except MalformedCall:
        if known is None or is_near(start.group(1), known):
            raise
        return None


def write(call: ToolCall) -> str:
    """Return a call as one line. Raises UsageError if Python syntax cannot express it."""
    return write_python_call(call)


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with nothing but: {write(EXAMPLE)}"
