"""What a model wrote becomes tool calls: four dialects, one pure function each, and nothing guessed.

    hermes    <tool_call>{"name": "look_up", "arguments": {"id": "A1"}}</tool_call>   (Qwen, Hermes)
    fenced    the same JSON in a ```json block
    bare      the same JSON and nothing else
    pythonic  look_up(id="A1")                                                        (Llama 4, Gemma)

A dialect function returns None where its form is not there at all, the calls where it is, and raises `MalformedCall` where
it was tried and went wrong. Nothing is repaired and nothing is evaluated: JSON is read strictly (no duplicate keys, no
NaN), Python by its syntax tree, literals only. Whether a tool exists and takes these arguments is for `tools.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from envgym.dialects.literals import (
    DOTTED_NAME,
    MalformedCall,
    excerpt,
    read_json,
    read_python_calls,
    write_python_call,
)
from envgym.errors import UsageError, did_you_mean
from envgym.messages import ToolCall

Dialect = Literal["hermes", "fenced", "bare", "pythonic"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

MAX_CHARACTERS = 200_000
"""Longer attempts are refused unread: Python's parser needs about 100 bytes of memory for one of text."""

_STARTS_LIKE_CALL = re.compile(rf"\[?\s*{DOTTED_NAME}\(")
_STARTS_LIKE_JSON = re.compile(r"\s*(?:\{|\[\s*\{)")
_FENCE = re.compile(
    r"^[ \t]*```(?:json|tool_call|tool)?[ \t]*\r?\n(?=\s*(?:\{|\[\s*\{))", re.MULTILINE
)
_FENCE_END = re.compile(r"[ \t]*```[ \t]*(?:\r?\n|\Z)")
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one answer of a model amounts to."""

    calls: tuple[ToolCall, ...]
    mode: str
    """The dialect it was read in, `none` for plain text, `invalid` for an attempt that cannot be read."""
    problem: str = ""
    """Why it is invalid, for the model."""
    content: str = ""
    """The text outside the calls and thoughts; all of the text when there is no call."""


def parse(text: str, dialects: Sequence[str] = DIALECTS, *, known: Iterable[str] = ()) -> Parsed:
    """Reads an answer in the first dialect that is there.

    Args:
        text: the answer, special tokens removed; a leading `<think>...</think>` is set aside and never searched for calls.
        dialects: names to try, in order.
        known: names of the tools; one of them followed by "(" at the start of any line counts as an attempted
            pythonic call, so that a call with prose around it is answered with a hint rather than taken for a final answer.
    """
    try:
        answer = _without_thought(text)
        for dialect in dialects:
            read = _reader(dialect)(answer)
            if read is not None:
                calls, content = read
                return Parsed(tuple(calls), dialect, content=content)
        if "pythonic" in dialects and _mentions_call(answer, known):
            raise MalformedCall("write the call alone, without any other text")
    except MalformedCall as problem:
        return Parsed((), "invalid", problem=str(problem), content=text)
    return Parsed((), "none", content=answer)


def hermes(text: str) -> list[ToolCall] | None:
    """Calls in `<tool_call>` blocks, anywhere in the text."""
    return _calls_of(_read_hermes(text))


def fenced(text: str) -> list[ToolCall] | None:
    """Calls in code blocks marked json, tool_call or not at all. A block of other JSON is an answer, not a call."""
    return _calls_of(_read_fenced(text))


def bare(text: str) -> list[ToolCall] | None:
    """Calls as the whole text: one JSON object or a list of them. Other JSON is an answer, not a call."""
    return _calls_of(_read_bare(text))


def pythonic(text: str) -> list[ToolCall] | None:
    """Calls as the whole text: `f(a=1)`, one a line, or `[f(a=1), g()]`. Literals and keyword arguments only.

    An attempt is a text that starts with an identifier directly followed by "(", so "Done (as asked)." is none.
    """
    return _calls_of(_read_pythonic(text))


def render_call(call: ToolCall, dialect: str) -> str:
    """The call as this dialect writes it; `parse` reads the same call back.

    Raises: UsageError where the dialect cannot write it (NaN; a name that Python does not allow).
    """
    if dialect == "pythonic":
        return write_python_call(call)
    try:
        body = json.dumps(call.to_dict(), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"the call of '{call.name}' cannot be written as JSON: {problem}"
        ) from None
    _reader(dialect)  # an unknown dialect ends here, with its message
    return {
        "hermes": f"<tool_call>\n{body}\n</tool_call>",
        "fenced": f"```json\n{body}\n```",
        "bare": body,
    }[dialect]


def explain(dialect: str) -> str:
    """Tells a model how to call a tool, by an example with a made-up one."""
    # No number and no name in it: either could be the answer of some task.
    example = render_call(ToolCall("look_up", {"word": "tree"}), dialect)
    alone = "with nothing but" if dialect in ("bare", "pythonic") else "with"
    return f"To call a tool, answer {alone}:{' ' if dialect in ('bare', 'pythonic') else chr(10)}{example}"


# -- one reader a dialect: (calls, text around them), or None where the dialect is absent -----------------------------

_Read = tuple[list[ToolCall], str] | None


def _reader(dialect: str) -> Callable[[str], _Read]:
    readers = {
        "hermes": _read_hermes,
        "fenced": _read_fenced,
        "bare": _read_bare,
        "pythonic": _read_pythonic,
    }
    if dialect not in readers:
        options = ", ".join(readers)
        raise UsageError(
            f"unknown tool-call dialect '{dialect}'{did_you_mean(dialect, readers)}; available: {options}"
        )
    return readers[dialect]


def _read_hermes(text: str) -> _Read:
    opening = "<tool_call>"
    closing = "</tool_call>"
    if opening not in text:
        if closing in text:
            raise MalformedCall(f"{closing} without {opening} before it")
        return None
    _refuse_long(text)
    calls = []
    around = []
    end = 0
    while (start := text.find(opening, end)) >= 0:
        around.append(text[end:start])
        value, end = read_json(text, start + len(opening))
        if not text.startswith(closing, end):
            raise MalformedCall(
                f"after the JSON of a call must come {closing}, got {excerpt(text[end:]) or 'the end'}"
            )
        calls.append(_call_from(value))
        end += len(closing)
    return calls, "".join([*around, text[end:]]).strip()


def _read_fenced(text: str) -> _Read:
    calls = []
    around = []
    end = 0
    while fence := _FENCE.search(text, end):
        _refuse_long(text)
        value, after = read_json(text, fence.end())
        closing = _FENCE_END.match(text, after)
        if closing is None:
            raise MalformedCall("after the JSON of a call must come a line with ``` alone")
        if _is_call(value):
            around.append(text[end : fence.start()])
            calls += _calls_from(value)
        else:
            around.append(text[end : closing.end()])
        end = closing.end()
    return (calls, "".join([*around, text[end:]]).strip()) if calls else None


def _read_bare(text: str) -> _Read:
    if not _STARTS_LIKE_JSON.match(text):
        return None
    _refuse_long(text)
    value, end = read_json(text, 0)
    if not _is_call(value):
        return None
    if end < len(text):
        raise MalformedCall(
            f"write the JSON of the call alone, got more after it: {excerpt(text[end:])}"
        )
    return _calls_from(value), ""


def _read_pythonic(text: str) -> _Read:
    stripped = text.strip()
    if not _STARTS_LIKE_CALL.match(stripped):
        return None
    _refuse_long(stripped)
    return read_python_calls(stripped), ""


def _calls_of(read: _Read) -> list[ToolCall] | None:
    return None if read is None else read[0]


def _without_thought(text: str) -> str:
    thought = _THOUGHT.match(text)
    if thought is None and text.lstrip().startswith("<think>"):
        raise MalformedCall("the thought was not closed with </think>")
    return text[thought.end() :] if thought else text


def _mentions_call(text: str, known: Iterable[str]) -> bool:
    names = "|".join(re.escape(name) for name in known)
    return bool(names) and re.search(rf"^[ \t]*\[?(?:{names})\(", text, re.MULTILINE) is not None


def _refuse_long(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise MalformedCall(
            f"the call is too long: {len(text)} characters, at most {MAX_CHARACTERS}"
        )


def _is_call(value: Any) -> bool:
    """Whether JSON means to be a call, well-formed or not; other JSON is an answer."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and ("arguments" in first or "name" in first)


def _calls_from(value: Any) -> list[ToolCall]:
    return [_call_from(item) for item in value] if isinstance(value, list) else [_call_from(value)]


def _call_from(value: Any) -> ToolCall:
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
            f"the arguments of a call must be an object, got {excerpt(json.dumps(value['arguments']))}"
        )
    return ToolCall(value["name"], value["arguments"])
