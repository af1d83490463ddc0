"""Dialect `pythonic`: Python calls, one a line or in a list (Llama 4, Gemma).

look_up(id="A1")

A text is an attempt if it starts with an identifier directly followed by "("; "Done (as asked)." is
not an attempt. Only keyword arguments with literal values are allowed. No code is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from envgym.dialects.json_calls import EXAMPLE, refuse_long
from envgym.dialects.literals import (
    DOTTED_NAME,
    MalformedCall,
    read_python_calls,
    write_python_call,
)
from envgym.messages import ToolCall

_STARTS_LIKE_CALL = re.compile(rf"\[?\s*{DOTTED_NAME}\(")


def read(text: str) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    stripped = text.strip()
    if not _STARTS_LIKE_CALL.match(stripped):
        return None
    refuse_long(stripped)
    return read_python_calls(stripped), ""


def check_text(text: str, known: Iterable[str]) -> None:
    """Raise MalformedCall if a line of the text starts with a tool's name and "("."""
    names = "|".join(re.escape(name) for name in known)
    if names and re.search(rf"^[ \t]*\[?(?:{names})\(", text, re.MULTILINE):
        raise MalformedCall("write the call alone, without any other text")


def write(call: ToolCall) -> str:
    """Return a call as one line. Raises UsageError if Python syntax cannot express it."""
    return write_python_call(call)


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with nothing but: {write(EXAMPLE)}"
