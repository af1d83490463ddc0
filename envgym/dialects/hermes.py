"""Dialect `hermes`: JSON in `<tool_call>` blocks anywhere in the text (Hermes, Qwen, SmolLM3).

<tool_call>{"name": "look_up", "arguments": {"id": "A1"}}</tool_call>
"""

from __future__ import annotations

import re

from envgym.dialects.json_calls import EXAMPLE, call_from, refuse_long, write_json
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, excerpt, read_json
from envgym.messages import ToolCall

FAMILIES = "Hermes, Qwen2.5, Qwen3, SmolLM3, Granite 4"
OPENING = "<tool_call>"
CLOSING = "</tool_call>"
MARKS = (OPENING, CLOSING)
TEMPLATE_MARKS = (OPENING,)
VLLM_PARSER = "hermes"
_OTHER_SYNTAX = re.compile(r"<tool_call>\s*(?:<function=|[\w.-]+\s*<arg_key>|\[\s*\{)")
"""Start of a block of a family that has the same mark: Qwen3-Coder, GLM, Granite 3."""


def read(text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    if OPENING not in text:
        if CLOSING in text:
            raise MalformedCall(f"{CLOSING} without {OPENING} before it")
        return None
    if _OTHER_SYNTAX.match(text, text.index(OPENING)):
        return None
    refuse_long(text)
    calls = []
    around = []
    end = 0
    while (start := text.find(OPENING, end)) >= 0:
        around.append(text[end:start])
        value, end = read_json(text, start + len(OPENING))
        if not text.startswith(CLOSING, end):
            raise MalformedCall(
                f"after the JSON of a call must come {CLOSING}, "
                f"got {excerpt(text[end:]) or 'the end'}"
            )
        calls.append(call_from(value))
        end += len(CLOSING)
    return calls, "".join([*around, text[end:]]).strip()


def write(call: ToolCall) -> str:
    """Return a call as text. Raises UsageError if JSON cannot express it."""
    return f"{OPENING}\n{write_json(call)}\n{CLOSING}"


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with:\n{write(EXAMPLE)}"
