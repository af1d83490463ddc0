"""Parse tool calls from model output, and write them.

This folder is the registry: a file `NAME.py` with `read`, `write` and `example` is the dialect
`NAME`, used by `prompt.dialects` of the YAML; see `Dialect`. Text is never repaired or evaluated:
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
from typing import Any, Protocol

from envgym.dialects.literals import MalformedCall
from envgym.errors import UsageError, did_you_mean
from envgym.messages import ToolCall

DEFAULT_DIALECTS = ("hermes", "fenced", "bare", "pythonic")
"""Dialects that are tried if a YAML names none, in this order."""
MEMBERS = ("read", "write", "example")
"""Members of `Dialect`."""
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Dialect(Protocol):
    """Contract of a dialect's file.

    A file may also define `check_text(text, known)`. It is called with the text of an answer
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
    parsed."""
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

    Raises:
        UsageError: If there is no such dialect.
    """
    if name not in dialect_names():
        raise UsageError(
            f"unknown tool-call dialect '{name}'{did_you_mean(name, dialect_names())}; "
            f"available: {', '.join(dialect_names())}"
        )
    return _module(name)


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
                return Parsed(tuple(calls), name, content=content)
        for _, dialect in readers:
            if check := getattr(dialect, "check_text", None):
                check(answer, known)
    except MalformedCall as problem:
        return Parsed((), "invalid", problem=str(problem), content=text)
    return Parsed((), "none", content=answer)


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
