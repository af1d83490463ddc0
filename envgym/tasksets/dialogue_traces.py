"""Cut recorded dialogues with tool calls into steps, one per assistant answer.

Two formats are supported. Messages of the chat-completions API, with `tool_calls` and `tools`:

    {"messages": [{"role": "user", ...}, {"role": "assistant", "tool_calls": [...]}, ...],
     "tools": [...]}

and tagged records in ToolRL's format (consecutive `<think>`, `<tool_call>` and `<response>` are one
answer, tool results are `<obs>`):

    {"system": "...", "dialogue": "<user> ... </user> <think> ... </think> <tool_call> ..."}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.errors import UsageError
from envgym.text import content_text

THOUGHT = "I do what this step needs."
"""Thought used in a truth if the trace contains none. Thoughts are required but never compared."""
HEADING = "Dialogue so far:"
_RECORD = re.compile(r"<(user|think|tool_call|response|obs)>(.*?)</\1>", re.DOTALL)
_CALL_KEYS = ("name", "parameters")


@dataclass
class _Answer:
    """One step of the assistant."""

    think: str = ""
    tool_call: str = ""
    response: str = ""

    def __str__(self) -> str:
        parts = [f"<think> {self.think or THOUGHT} </think>"]
        parts += [f"<tool_call>\n{self.tool_call}\n</tool_call>"] if self.tool_call else []
        parts += [f"<response> {self.response} </response>"] if self.response else []
        return "\n".join(parts)


def steps_of(trace: dict[str, Any], where: str) -> list[tuple[str, str, str]]:
    """Return (system text, dialogue, truth) for each assistant step that follows a message.

    Args:
        trace: Trace in one of the two formats.
        where: `file:line`, for error messages.

    Raises:
        UsageError: If a record is invalid, or the trace has no such step.
    """
    said = list(
        _from_messages(trace["messages"], where)
        if "messages" in trace
        else _from_tags(trace["dialogue"], where)
    )
    system = _system_text(trace)
    steps = [
        (system, f"{HEADING}\n" + "\n".join(map(str, said[:index])), str(answer))
        for index, answer in enumerate(said)
        if isinstance(answer, _Answer) and index
    ]
    if not steps:
        raise UsageError(
            f"{where}: the trace has no answer of an assistant after a message of a user"
        )
    return steps


def listing(tools: Sequence[dict[str, Any]]) -> str:
    """Return tools of the chat-completions API as ToolRL's numbered list."""
    functions = [tool.get("function", tool) for tool in tools]
    return "\n".join(
        f"{number}. Name: {function['name']}\n"
        f"Description: {' '.join(function.get('description', '').split())}\n"
        f"Parameters: {json.dumps(_properties(function), ensure_ascii=False)}"
        for number, function in enumerate(functions, start=1)
    )


def _properties(function: dict[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    return schema.get("properties", schema)


def _system_text(trace: dict[str, Any]) -> str:
    messages = trace.get("messages") or ()
    first = [message["content"] for message in messages[:1] if message.get("role") == "system"]
    tools = [f"Tools:\n{listing(trace['tools'])}"] if trace.get("tools") else []
    return "\n\n".join([*filter(None, [trace.get("system")]), *first, *tools])


# -- tagged records -------------------------------------------------------------------------------


def _from_tags(text: Any, where: str) -> Iterator[str | _Answer]:
    if not isinstance(text, str):
        raise UsageError(f"{where}: `dialogue` must be text, got {type(text).__name__}")
    answer = None
    for tag, inside in _tagged(text, where):
        if answer is not None and (tag in ("user", "obs", "think") or getattr(answer, tag)):
            yield answer
            answer = None
        if tag in ("user", "obs"):
            yield f"<{tag}> {inside} </{tag}>"
        else:
            answer = answer or _Answer()
            setattr(answer, tag, inside)
    if answer is not None:
        yield answer


def _tagged(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Yield each tag with its content, in order. Raise UsageError for text outside of tags."""
    end = 0
    for record in _RECORD.finditer(text):
        _nothing_between(text[end : record.start()], where)
        yield record[1], record[2].strip()
        end = record.end()
    _nothing_between(text[end:], where)


def _nothing_between(text: str, where: str) -> None:
    if text.strip():
        raise UsageError(
            f"{where}: dialogue: {text.strip()[:60]!r} is outside of "
            "<user>, <think>, <tool_call>, <response> and <obs>"
        )


# -- messages -------------------------------------------------------------------------------------


def _from_messages(messages: Any, where: str) -> Iterator[str | _Answer]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UsageError(f"{where}: `messages` must be a list of objects with `role` and `content`")
    for number, message in enumerate(messages, start=1):
        role = message.get("role")
        content = message.get("content") or ""
        if isinstance(content, list):
            content = content_text(content)
        if not isinstance(content, str):
            raise UsageError(
                f"{where}: message {number}: content must be text, got {type(content).__name__}"
            )
        content = content.strip()
        if role == "assistant":
            yield _answer(message, content, f"{where}: message {number}")
        elif role in ("user", "tool"):
            tag = "user" if role == "user" else "obs"
            yield f"<{tag}> {content} </{tag}>"
        elif role != "system" or number > 1:
            raise UsageError(
                f"{where}: message {number} has the role {role!r}; "
                "allowed: system (first), user, assistant, tool"
            )


def _answer(message: dict[str, Any], content: str, where: str) -> _Answer:
    calls = [_call(call, where) for call in message.get("tool_calls") or ()]
    if not calls and not content:
        raise UsageError(f"{where}: the assistant message has neither a tool call nor content")
    thought = (message.get("reasoning_content") or "").strip()
    if content.startswith("<think>"):
        told, _, content = content.removeprefix("<think>").partition("</think>")
        thought = thought or told.strip()
        content = content.strip()
    if "<tool_call>" in content or "<response>" in content:
        return _retold(content, thought, calls, where)
    return _Answer(thought, "\n".join(calls), content)


def _retold(content: str, thought: str, calls: list[str], where: str) -> _Answer:
    """Return the answer of a message whose content already has tags."""
    found = list(_from_tags(content, where))
    if len(found) != 1 or not isinstance(found[0], _Answer) or calls:
        raise UsageError(
            f"{where}: content in tags must contain one <tool_call>, one <response> or both, "
            "without `tool_calls`"
        )
    return _Answer(thought, found[0].tool_call, found[0].response)


def _call(call: Any, where: str) -> str:
    try:
        function = call.get("function", call)
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        return json.dumps(
            dict(zip(_CALL_KEYS, (function["name"], arguments), strict=True)), ensure_ascii=False
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: tool_calls: needs `function` with `name` and `arguments` (JSON): {error!r}"
        ) from None
