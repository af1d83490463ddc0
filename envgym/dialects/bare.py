"""Dialect `bare`: a text that is one JSON object or a list of objects. Other JSON is an answer.

{"name": "look_up", "arguments": {"id": "A1"}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from envgym.dialects.json_calls import (
    EXAMPLE,
    calls_from,
    is_broken_call,
    is_call,
    refuse_long,
    write_json,
)
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, excerpt, read_json
from envgym.messages import ToolCall

FAMILIES = "SmolLM2 and small models"
VLLM_PARSER = "llama3_json"
_STARTS_LIKE_JSON = re.compile(r"\s*(?:\{|\[\s*\{)")


def read(text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    if not _STARTS_LIKE_JSON.match(text):
        return None
    try:
        refuse_long(text)
        value, end = read_json(text, 0)
    except MalformedCall:
        if is_broken_call(text, known):
            raise
        return None
    if not is_call(value, known):
        return None
    if end < len(text):
        raise MalformedCall(
            f"write the JSON of the call alone, got more after it: {excerpt(text[end:])}"
        )
    return calls_from(value), ""


def write(call: ToolCall) -> str:
    """Return a call as text. Raises UsageError if JSON cannot express it."""
    return write_json(call)


def write_all(calls: Sequence[ToolCall]) -> str:
    """Return several calls as one list."""
    written = [write(call) for call in calls]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with nothing but: {write(EXAMPLE)}"
