"""Parse tool calls from model output, and write them.

This folder is the registry: a file `NAME.py` with `read`, `write` and `example` is the dialect
`NAME`, and a file with a table `DIALECTS` adds its rows; see `Dialect`. `file.py:name` and
`package.module:name` name any other object with these members. Text is never repaired or evaluated:
JSON is parsed strictly, Python by its syntax tree with literals only. Whether a tool exists and
accepts the arguments is checked elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, Protocol

from envgym.dialects.attempts import UnreadableCall, refuse_attempts
from envgym.dialects.known import Known, Tools, known_tools
from envgym.dialects.literals import MalformedCall
from envgym.dialects.reasoning import (
    Split,
    has_reasoning_mark,
    split_marks,
    split_opening,
    split_reasoning,
    without_reasoning,
)
from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.messages import ToolCall
from envgym.modules import load_module

DEFAULT_DIALECTS = ("hermes", "fenced", "bare", "pythonic")
"""Dialects that are tried if a YAML names none, in this order."""
MEMBERS = ("read", "write", "example")
"""Members of `Dialect`."""


__all__ = [
    "DEFAULT_DIALECTS",
    "MEMBERS",
    "Dialect",
    "MalformedCall",
    "Parsed",
    "dialect_for_template",
    "dialect_names",
    "find_dialect",
    "parse",
    "render_call",
    "split_reasoning",
    "usage_example",
    "with_absolute_paths",
    "without_reasoning",
    "write_calls",
]


_STOPS = (
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "</s>"),
    *("<|END_OF_TURN_TOKEN|>", "<end_of_turn>", "<turn|>", "<eos>", "<｜end▁of▁sentence｜>"),
)
"""Tokens of the end of a turn, which some servers leave in the text."""


class Dialect(Protocol):
    """Contract of a dialect: of each file in this folder, and of a user's file or object.

    Optional members:

    - `write_all(calls) -> str`: several calls in one answer, if they have a wrapper of their own.
    - `MARKS: tuple[str, ...]`: texts that announce a call in this syntax. An answer with a mark,
      but without a call that can be parsed, is invalid.
    - `TEMPLATE_MARKS: tuple[str, ...]`: texts in a chat template that choose this dialect.
    - `VLLM_PARSER: str | None`: name of the parser in vLLM that reads this syntax.
    """

    def read(self, text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

        A dialect of a user may leave out `known`.

        Args:
            text: Answer without its reasoning.
            known: Schemas of the arguments by tool and argument; None if the tools are not known.

        Raises:
            MalformedCall: If the text attempts a call that cannot be parsed. The message is for the
                model.
        """
        ...

    def write(self, call: ToolCall) -> str:
        """Return a call as text; `read` returns the same call for it.

        Raises:
            UsageError: If the dialect cannot express the call.
        """
        ...

    def example(self) -> str:
        """Return an instruction for the model that shows an example call."""
        ...


@dataclass(frozen=True, slots=True)
class Parsed:
    """Result of parsing one answer of a model."""

    calls: tuple[ToolCall, ...]
    mode: str
    """Dialect of the calls; `none` for plain text, `invalid` for an attempt that cannot be
    parsed. A dialect `file.py:name` is given without its folder."""
    problem: str = ""
    """Error message for the model, if the answer is invalid."""
    content: str = ""
    """Text outside the calls and the reasoning; the whole text if the answer is invalid."""
    reasoning: str = ""
    """Reasoning without its marks; empty if the answer is invalid."""


@functools.cache
def dialect_names() -> tuple[str, ...]:
    """Return the names of all dialects of this folder."""
    return tuple(sorted(_shipped()))


@functools.cache
def _shipped() -> dict[str, Dialect]:
    """Return all dialects of this folder by name."""
    found: dict[str, Dialect] = {}
    for file in pkgutil.iter_modules(__path__):
        module: Any = importlib.import_module(f"{__name__}.{file.name}")
        if all(hasattr(module, each) for each in MEMBERS):
            found[file.name] = module
        found |= getattr(module, "DIALECTS", {})
    return found


@functools.cache
def find_dialect(name: str) -> Dialect:
    """Return a dialect.

    Args:
        name: Name of a file of this folder, or `file.py:name` or `package.module:name`: the
            function `read` of a file like those of this folder, or an object or a class with the
            members of `Dialect`. A class is called without arguments.

    Raises:
        UsageError: If there is no such dialect.
        SpecError: If the file, the module or the name does not exist, or lacks a member of
            `Dialect`.
    """
    if name in _shipped():
        return _shipped()[name]
    if ":" not in name:
        raise UsageError(
            f"unknown tool-call dialect '{name}'{did_you_mean(name, dialect_names())}; "
            f"available: {', '.join(dialect_names())}, or 'file.py:name' for your own"
        )
    module, inside = load_module(name, Path())
    found = getattr(module, inside)
    if isinstance(found, FunctionType):
        found = SimpleNamespace(**{**vars(module), "read": found})
    dialect: Any = found() if isinstance(found, type) else found
    if missing := [each for each in MEMBERS if not callable(getattr(dialect, each, None))]:
        raise SpecError(
            f"'{name}' has no function '{missing[0]}'. A dialect needs "
            f"{', '.join(MEMBERS)}; see envgym.dialects.Dialect"
        )
    return dialect


def with_absolute_paths(names: Any, root: Path) -> Any:
    """Return the dialects of a YAML with each `file.py:name` as an absolute path."""
    if not isinstance(names, list):
        return names  # rejected by the schema
    return [
        f"{root.absolute() / name}" if isinstance(name, str) and ".py:" in name else name
        for name in names
    ]


def parse(
    text: str, dialects: Sequence[str] = DEFAULT_DIALECTS, *, known: Tools | None = None
) -> Parsed:
    """Parse an answer with the first dialect that it contains.

    An answer without a call in these dialects is plain text. If it looks like a call, because it
    holds a mark of any dialect of this folder or names a tool together with arguments, it is
    invalid, so that a call is never taken for a final answer.

    Args:
        text: Answer, with or without special tokens. Reasoning is removed and never searched for
            calls.
        dialects: Dialects to try, in order.
        known: Tools that the model may call: names, tools, or OpenAI schemas. None if they are not
            known; then only the form of a text decides whether it is an attempt.
    """
    readers = [(name, find_dialect(name)) for name in dialects]
    tools = None if known is None else known_tools(known)
    opened = split_opening(text)
    try:
        if has_reasoning_mark(opened.answer) and (whole := _read_whole(opened, readers, tools)):
            return whole
        split = split_marks(text)
        if found := _read(_without_stop(split.answer), readers, tools, split.reasoning):
            return found
        if split.missing:
            raise MalformedCall(f"the reasoning was not closed with {split.missing}")
        if tools is None or tools:  # without tools, no text is a call
            refuse_attempts(split.answer, _all_marks(readers), tools or {})
    except MalformedCall as problem:
        return Parsed((), "invalid", problem=_explained(problem, dialects), content=text)
    return Parsed((), "none", content=split.answer, reasoning=split.reasoning)


def _read(
    answer: str, readers: Sequence[tuple[str, Dialect]], tools: Known | None, reasoning: str
) -> Parsed | None:
    """Return the calls in an answer, or None if no dialect finds one."""
    for name, dialect in readers:
        if (read := _read_with(dialect, answer, tools)) is not None:
            calls, content = read
            mode = name.rpartition("/")[2]
            return Parsed(tuple(calls), mode, content=content, reasoning=reasoning)
    return None


def _without_stop(answer: str) -> str:
    stripped = answer.rstrip()
    stop = next((token for token in _STOPS if stripped.endswith(token)), None)
    return stripped.removesuffix(stop) if stop else answer


def _read_whole(
    opened: Split, readers: Sequence[tuple[str, Dialect]], tools: Known | None
) -> Parsed | None:
    """Return the calls of a text whose marks of reasoning all stand in values of arguments."""
    try:
        whole = _read(opened.answer, readers, tools, opened.reasoning)
    except MalformedCall:
        return None
    return whole if whole and not has_reasoning_mark(whole.content) else None


def _read_with(
    dialect: Dialect, text: str, tools: Known | None
) -> tuple[list[ToolCall], str] | None:
    if _takes_tools(dialect.read):
        return dialect.read(text, tools)
    return dialect.read(text)


@functools.lru_cache(maxsize=1000)
def _takes_tools(function: Callable[..., Any]) -> bool:
    """Return whether a function of a dialect has a second parameter, for the tools."""
    return len(inspect.signature(function).parameters) > 1


def _all_marks(readers: Sequence[tuple[str, Dialect]]) -> tuple[str, ...]:
    own = [mark for _, dialect in readers for mark in getattr(dialect, "MARKS", ())]
    return tuple(dict.fromkeys([*own, *_marks_of_the_folder()]))


@functools.cache
def _marks_of_the_folder() -> tuple[str, ...]:
    return tuple(
        mark for name in dialect_names() for mark in getattr(find_dialect(name), "MARKS", ())
    )


def _explained(problem: MalformedCall, dialects: Sequence[str]) -> str:
    """Return the message for the model, with the form that it should have used."""
    if isinstance(problem, UnreadableCall) and dialects:
        return f"{problem}. {usage_example(dialects[0])}"
    return str(problem)


def render_call(call: ToolCall, dialect: str, *, known: Tools | None = None) -> str:
    """Return the call as text in a dialect; `parse` returns the same call for it.

    Args:
        call: The call.
        dialect: Name of the dialect.
        known: See `write_calls`.

    Raises:
        UsageError: If the dialect is unknown or cannot express the call (NaN, or a name that is not
            valid in Python).
    """
    return write_calls([call], dialect, known=known)


def write_calls(calls: Sequence[ToolCall], dialect: str, *, known: Tools | None = None) -> str:
    """Return the calls of one answer as text in a dialect; `parse` returns the same calls for it.

    Args:
        calls: The calls. None of them gives an empty text.
        dialect: Name of the dialect. If it has `write_all`, that function writes the wrapper of
            several calls; otherwise each call is written on a line of its own.
        known: Tools with the schemas of their arguments. With them, dialects of tags write a text
            such as "7" without quotes, as the chat templates of their families do. `parse` must
            get the same tools.

    Raises:
        UsageError: If the dialect is unknown or cannot express a call.
    """
    if not calls:
        return ""
    writer = find_dialect(dialect)
    write_all = getattr(writer, "write_all", None)
    if write_all is None:
        return "\n".join(writer.write(call) for call in calls)
    if known is not None and _takes_tools(write_all):
        return write_all(calls, known_tools(known))
    return write_all(calls)


def dialect_for_template(template: str) -> str | None:
    """Return the dialect of the tool calls that a chat template writes, or None.

    The dialect with the longest of the `TEMPLATE_MARKS` in the template is chosen. A mark `a...b`
    is in the template if `b` comes after `a`.

    Args:
        template: Jinja source of a chat template.
    """
    found = [
        (len(mark), name)
        for name in dialect_names()
        for mark in getattr(find_dialect(name), "TEMPLATE_MARKS", ())
        if re.search(".*".join(map(re.escape, mark.split("..."))), template, re.DOTALL)
    ]
    return max(found)[1] if found else None


def usage_example(dialect: str) -> str:
    """Return an instruction for the model that shows an example call in this dialect.

    Raises:
        UsageError: If the dialect is unknown.
    """
    return find_dialect(dialect).example()
