"""Parse tool calls from model output, and write them.

This folder is the registry: a file `NAME.py` with `read`, `write` and `example` is the dialect
`NAME`, used by `prompt.dialects` of the YAML; see `Dialect`. `file.py:name` and
`package.module:name` name any other object with these members. Text is never repaired or evaluated:
JSON is parsed strictly, Python by its syntax tree with literals only. Whether a tool exists and
accepts the arguments is checked elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, Protocol

from envgym.dialects.literals import MalformedCall
from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.messages import ToolCall
from envgym.modules import load_module

DEFAULT_DIALECTS = ("hermes", "fenced", "bare", "pythonic")
"""Dialects that are tried if a YAML names none, in this order."""
MEMBERS = ("read", "write", "example")
"""Members of `Dialect`."""
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Dialect(Protocol):
    """Contract of a dialect: of each file in this folder, and of a user's file or object.

    A dialect may also define `check_text(text, known)`. It is called with the text of an answer
    without calls and the names of the tools, and raises `MalformedCall` if the text mentions a call
    in a form that cannot be parsed.
    """

    def read(self, text: str) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

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
    """Text outside the calls and thoughts; the whole text if there is no call."""


@functools.cache
def dialect_names() -> tuple[str, ...]:
    """Return the names of all dialects of this folder."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return tuple(name for name in files if all(hasattr(_module(name), each) for each in MEMBERS))


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
    if name in dialect_names():
        return _module(name)
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


def _module(name: str) -> Dialect:
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module


def parse(
    text: str, dialects: Sequence[str] = DEFAULT_DIALECTS, *, known: Iterable[str] = ()
) -> Parsed:
    """Parse an answer with the first dialect that it contains.

    Args:
        text: Answer without special tokens. A leading `<think>...</think>` is removed and never
            searched for calls.
        dialects: Dialects to try, in order.
        known: Tool names. If a line starts with one of them and "(", the answer counts as an
            attempted pythonic call: the model then gets a hint, and the text is not taken for a
            final answer.
    """
    readers = [(name, find_dialect(name)) for name in dialects]
    try:
        answer = _without_thought(text)
        for name, dialect in readers:
            if (read := dialect.read(answer)) is not None:
                calls, content = read
                return Parsed(tuple(calls), name.rpartition("/")[2], content=content)
        for _, dialect in readers:
            if check := getattr(dialect, "check_text", None):
                check(answer, known)
    except MalformedCall as problem:
        return Parsed((), "invalid", problem=str(problem), content=text)
    return Parsed((), "none", content=answer)


def without_reasoning(text: str) -> str:
    """Return an answer without its reasoning, for the parts of a reward.

    Everything up to `</think>` is reasoning, also if the prompt has opened it. Reasoning that was
    not closed has no answer: the result is empty.

    >>> without_reasoning("<think>Is it 7?</think>No."), without_reasoning("<think>Is it 7?")
    ('No.', '')
    """
    _, closed, answer = text.partition("</think>")
    if closed:
        return answer
    return "" if text.lstrip().startswith("<think>") else text


def _without_thought(text: str) -> str:
    thought = _THOUGHT.match(text)
    if thought is None and text.lstrip().startswith("<think>"):
        raise MalformedCall("the thought was not closed with </think>")
    return text[thought.end() :] if thought else text


def render_call(call: ToolCall, dialect: str) -> str:
    """Return the call as text in a dialect; `parse` returns the same call for it.

    Raises:
        UsageError: If the dialect is unknown or cannot express the call (NaN, or a name that is not
            valid in Python).
    """
    return find_dialect(dialect).write(call)


def usage_example(dialect: str) -> str:
    """Return an instruction for the model that shows an example call in this dialect.

    Raises:
        UsageError: If the dialect is unknown.
    """
    return find_dialect(dialect).example()
