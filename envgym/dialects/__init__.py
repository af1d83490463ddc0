"""Parse tool calls from model output. Each dialect is one pure function.

    hermes    <tool_call>{"name": "look_up", "arguments": {"id": "A1"}}</tool_call>   (Qwen, Hermes)
    fenced    the same JSON in a ```json block
    bare      the same JSON and no other text
    pythonic  look_up(id="A1")                                                        (Llama 4,
    Gemma)

A dialect function returns None if its form is absent, the calls if it is present, and raises
`MalformedCall` if it is malformed. Text is never repaired or evaluated: JSON is parsed strictly,
Python by its syntax tree with literals only. Whether a tool exists and accepts the arguments is
checked elsewhere.
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
"""Maximum length of an attempted call. Python's parser needs about 100 bytes of memory per
character."""

_STARTS_LIKE_CALL = re.compile(rf"\[?\s*{DOTTED_NAME}\(")
_STARTS_LIKE_JSON = re.compile(r"\s*(?:\{|\[\s*\{)")
_FENCE = re.compile(
    r"^[ \t]*```(?:json|tool_call|tool)?[ \t]*\r?\n(?=\s*(?:\{|\[\s*\{))", re.MULTILINE
)
_FENCE_END = re.compile(r"[ \t]*```[ \t]*(?:\r?\n|\Z)")
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Result of parsing one answer of a model."""

    calls: tuple[ToolCall, ...]
    mode: str
    """Dialect of the calls; `none` for plain text, `invalid` for an attempt that cannot be
    parsed."""
    problem: str = ""
    """Error message for the model, if the answer is invalid."""
    content: str = ""
    """Text outside the calls and thoughts; the whole text if there is no call."""


def parse(text: str, dialects: Sequence[str] = DIALECTS, *, known: Iterable[str] = ()) -> Parsed:
    """Parse an answer with the first dialect that it contains.

    Args:
        text: Answer without special tokens. A leading `<think>...</think>` is removed and never
            searched for calls.
        dialects: Dialects to try, in order.
        known: Tool names. If a line starts with one of them and "(", the answer counts as an
            attempted pythonic call: the model then gets a hint, and the text is not taken for a
            final answer.
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
    """Parse calls in `<tool_call>` blocks anywhere in the text."""
    return _calls_of(_read_hermes(text))


def fenced(text: str) -> list[ToolCall] | None:
    """Parse calls in code blocks marked json, tool_call or not at all. Other JSON is no call."""
    return _calls_of(_read_fenced(text))


def bare(text: str) -> list[ToolCall] | None:
    """Parse a text that is one JSON object or a list of objects. Other JSON is not a call."""
    return _calls_of(_read_bare(text))


def pythonic(text: str) -> list[ToolCall] | None:
    """Parse a text of pythonic calls: `f(a=1)`, one per line, or `[f(a=1), g()]`.

    A text is an attempt if it starts with an identifier directly followed by "("; "Done (as
    asked)." is not an attempt. Only keyword arguments with literal values are allowed.
    """
    return _calls_of(_read_pythonic(text))


def render_call(call: ToolCall, dialect: str) -> str:
    """Return the call as text in a dialect; `parse` returns the same call for it.

    Raises:
        UsageError: If the dialect is unknown or cannot express the call (NaN, or a name that is not
            valid in Python).
    """
    if dialect == "pythonic":
        return write_python_call(call)
    try:
        body = json.dumps(call.to_dict(), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"the call of '{call.name}' cannot be written as JSON: {problem}"
        ) from None
    _reader(dialect)  # raises UsageError for an unknown dialect
    return {
        "hermes": f"<tool_call>\n{body}\n</tool_call>",
        "fenced": f"```json\n{body}\n```",
        "bare": body,
    }[dialect]


def usage_example(dialect: str) -> str:
    """Return an instruction for the model that shows an example call in this dialect."""
    # The example contains no number and no name, because either could be the answer of a task.
    example = render_call(ToolCall("look_up", {"word": "tree"}), dialect)
    alone = "with nothing but" if dialect in ("bare", "pythonic") else "with"
    return (
        f"To call a tool, answer {alone}:"
        f"{' ' if dialect in ('bare', 'pythonic') else chr(10)}{example}"
    )


# -- one reader per dialect: (calls, surrounding text), or None if the dialect is absent ---------

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
            f"unknown tool-call dialect '{dialect}'{did_you_mean(dialect, readers)}; "
            f"available: {options}"
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
                f"after the JSON of a call must come {closing}, "
                f"got {excerpt(text[end:]) or 'the end'}"
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
    """Return whether JSON is meant as a call, valid or not. Other JSON is an answer."""
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
            "the arguments of a call must be an object, "
            f"got {excerpt(json.dumps(value['arguments']))}"
        )
    return ToolCall(value["name"], value["arguments"])
