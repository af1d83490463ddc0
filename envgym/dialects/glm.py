"""Dialect `glm`: a name and pairs of tags in a block (GLM 4.5 and later).

<tool_call>look_up
<arg_key>word</arg_key>
<arg_value>tree</arg_value>
</tool_call>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from envgym.dialects.json_calls import EXAMPLE, refuse_long
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, check_value, excerpt
from envgym.dialects.tagged_values import NAME, TaggedValue, tag_name, tool_name
from envgym.messages import ToolCall

FAMILIES = "GLM 4.5 and later"
CLOSING = "</tool_call>"
MARKS = ("<arg_key>", "<arg_value>", "</arg_value>")
TEMPLATE_MARKS = ("</arg_value>",)
VLLM_PARSER = "glm45"
_VALUE = TaggedValue("</arg_value>")
_START = re.compile(rf"<tool_call>\s*(?P<name>{NAME})\s*(?=<arg_key>|</tool_call>)")
_ARGUMENT = re.compile(r"\s*<arg_key>(?P<key>[^<>]*)</arg_key>\s*<arg_value>")
_END = re.compile(rf"\s*{CLOSING}")


def read(text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
    """Return the calls and the text around them, or None if there is no call.

    Raises:
        MalformedCall: If the text attempts a call that cannot be parsed.
    """
    if not _START.search(text):
        return None
    refuse_long(text)
    calls: list[ToolCall] = []
    around: list[str] = []
    at = 0
    while start := _START.search(text, at):
        around.append(text[at : start.start()])
        call, at = _read_call(text, start, known or {})
        calls.append(call)
    return calls, "".join([*around, text[at:]]).strip()


def _read_call(text: str, start: re.Match[str], known: Known) -> tuple[ToolCall, int]:
    name = start.group("name")
    schemas = known.get(name, {})
    arguments: dict[str, Any] = {}
    at = start.end()
    while found := _ARGUMENT.match(text, at):
        key = found.group("key")
        end = text.find("</arg_value>", found.end())
        if end < 0:
            raise MalformedCall(f"the value of '{excerpt(key)}' has no </arg_value>")
        if key in arguments:
            raise MalformedCall(f"'{excerpt(key)}' stands twice in one call or object")
        arguments[key] = _VALUE.read(text[found.end() : end], schemas.get(key))
        at = end + len("</arg_value>")
    if not (closed := _END.match(text, at)):
        raise MalformedCall(f"expected {CLOSING}, got {excerpt(text[at:]) or 'the end'}")
    check_value(arguments)
    return ToolCall(name, arguments), closed.end()


def write(call: ToolCall, known: Known | None = None) -> str:
    """Return a call as text.

    Args:
        call: The call.
        known: Schemas of the arguments by tool and argument, if there are any.

    Raises:
        UsageError: If the syntax cannot express the call.
    """
    schemas = (known or {}).get(call.name, {})
    lines = [f"<tool_call>{tool_name(call.name)}"]
    for key, value in call.arguments.items():
        lines.append(f"<arg_key>{tag_name(call.name, key)}</arg_key>")
        text = _VALUE.write(call.name, value, schemas.get(key))
        lines.append(f"<arg_value>{text}</arg_value>")
    return "\n".join([*lines, CLOSING])


def write_all(calls: Sequence[ToolCall], known: Known | None = None) -> str:
    """Return several calls as text. Raises UsageError if the syntax cannot express one."""
    return "\n".join(write(call, known) for call in calls)


def example() -> str:
    """Return the instruction for the model."""
    return f"To call a tool, answer with:\n{write(EXAMPLE)}"
