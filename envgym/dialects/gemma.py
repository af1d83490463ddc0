"""Dialects of Gemma: a name and `{key:value}` with marked texts.

<start_function_call>call:look_up{word:<escape>tree<escape>}<end_function_call>
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envgym.dialects.json_calls import EXAMPLE, refuse_long
from envgym.dialects.known import Known
from envgym.dialects.literals import MAX_DEPTH, MalformedCall, check_value, excerpt
from envgym.errors import UsageError
from envgym.messages import ToolCall

_NAME = re.compile(r"[\w.\-]+")
_KEY = re.compile(r"[^\s:,{}\[\]<>\"'|][^:,{}\[\]<>\"'|\n]*")
_SCALAR = re.compile(r"[^,{}\[\]<>]*")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Braces:
    """Dialect of `call:NAME{key:value}` between two marks."""

    opening: str
    closing: str
    quote: str
    """Mark before and after a text."""
    FAMILIES: str = ""
    MARKS: tuple[str, ...] = ()
    TEMPLATE_MARKS: tuple[str, ...] = ()
    VLLM_PARSER: str | None = None

    def read(self, text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

        Raises:
            MalformedCall: If the text attempts a call that cannot be parsed.
        """
        header = re.compile(rf"{re.escape(self.opening)}\s*call:(?P<name>[\w.\-]+)(?=\{{)")
        if not header.search(text):
            return None
        refuse_long(text)
        calls: list[ToolCall] = []
        around: list[str] = []
        at = 0
        while start := header.search(text, at):
            around.append(text[at : start.start()])
            arguments, at = _Reader(text, self.quote).read(start.end(), 0)
            if not text.startswith(self.closing, at):
                got = excerpt(text[at:]) or "the end"
                raise MalformedCall(f"after the call must come {self.closing}, got {got}")
            at += len(self.closing)
            check_value(arguments)
            calls.append(ToolCall(start.group("name"), arguments))
        return calls, "".join([*around, text[at:]]).strip()

    def write(self, call: ToolCall) -> str:
        """Return a call as text. Raises UsageError if the syntax cannot express it."""
        if not _NAME.fullmatch(call.name):
            raise UsageError(
                f"a tool named '{call.name}' cannot be called in this dialect; "
                "rename it or use another dialect"
            )
        return f"{self.opening}call:{call.name}{self._write(call.arguments)}{self.closing}"

    def write_all(self, calls: Sequence[ToolCall]) -> str:
        """Return several calls as text. Raises UsageError if the syntax cannot express one."""
        return "".join(self.write(call) for call in calls)

    def _write(self, value: Any) -> str:
        if isinstance(value, str):
            if self.quote in value:
                raise UsageError(f"a text with {self.quote} cannot be written in this dialect")
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, dict):
            pairs = [f"{self._key(key)}:{self._write(each)}" for key, each in value.items()]
            return "{" + ",".join(pairs) + "}"
        if isinstance(value, list):
            return f"[{','.join(map(self._write, value))}]"
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{value!r} cannot be written as an argument of a call")
        return json.dumps(value)

    def _key(self, key: str) -> str:
        return key if _KEY.fullmatch(key) and key == key.strip() else self._write(key)

    def example(self) -> str:
        """Return the instruction for the model."""
        return f"To call a tool, answer with:\n{self.write(EXAMPLE)}"


@dataclass(frozen=True)
class _Reader:
    """Strict parser of values; each method returns the value and the index after it."""

    text: str
    quote: str

    def read(self, at: int, depth: int) -> tuple[Any, int]:
        if depth > MAX_DEPTH + 1:
            raise MalformedCall(f"the call is nested more than {MAX_DEPTH} levels deep")
        if self.text.startswith("{", at):
            return self._object(at + 1, depth)
        if self.text.startswith("[", at):
            return self._list(at + 1, depth)
        if self.text.startswith(self.quote, at):
            return self._marked(at)
        found = _SCALAR.match(self.text, at)
        word = found.group() if found else ""
        return self._scalar(word), at + len(word)

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        plain: dict[str, Any] = {}
        if self.text.startswith("}", at):
            return plain, at + 1
        while True:
            key, at = self._key(at)
            if key in plain:
                raise MalformedCall(f"'{excerpt(key)}' stands twice in one call or object")
            if not self.text.startswith(":", at):
                raise MalformedCall(f"after '{excerpt(key)}' must come a colon and the value")
            plain[key], at = self.read(at + 1, depth + 1)
            if self.text.startswith("}", at):
                return plain, at + 1
            at = self._comma(at, "}")

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        plain: list[Any] = []
        if self.text.startswith("]", at):
            return plain, at + 1
        while True:
            value, at = self.read(at, depth + 1)
            plain.append(value)
            if self.text.startswith("]", at):
                return plain, at + 1
            at = self._comma(at, "]")

    def _comma(self, at: int, closing: str) -> int:
        if not self.text.startswith(",", at):
            got = excerpt(self.text[at:]) or "the end"
            raise MalformedCall(f"expected , or {closing} in the call, got {got}")
        return at + 1

    def _key(self, at: int) -> tuple[str, int]:
        if self.text.startswith(self.quote, at):
            return self._marked(at)
        found = _KEY.match(self.text, at)
        if found is None:
            raise MalformedCall("the call has an argument without a name")
        return found.group(), found.end()

    def _marked(self, at: int) -> tuple[str, int]:
        start = at + len(self.quote)
        end = self.text.find(self.quote, start)
        if end < 0:
            raise MalformedCall(f"a text in the call has no {self.quote} at its end")
        return self.text[start:end], end + len(self.quote)

    def _scalar(self, word: str) -> Any:
        word = word.strip()
        if word in _WORDS:
            return _WORDS[word]
        if not _NUMBER.fullmatch(word):
            raise MalformedCall(
                f"'{excerpt(word)}' has no value; write a text as {self.quote}...{self.quote}"
            )
        try:
            return json.loads(word)
        except ValueError:
            raise MalformedCall("the call holds a number that is not valid") from None


DIALECTS = {
    # vLLM's functiongemma loses every argument that is no text.
    "functiongemma": Braces(
        "<start_function_call>",
        "<end_function_call>",
        "<escape>",
        MARKS=("<start_function_call>", "<end_function_call>"),
        TEMPLATE_MARKS=("<start_function_call>",),
        FAMILIES="FunctionGemma",
    ),
    "gemma4": Braces(
        "<|tool_call>",
        "<tool_call|>",
        '<|"|>',
        MARKS=("<|tool_call>", "<tool_call|>"),
        TEMPLATE_MARKS=("<|tool_call>",),
        VLLM_PARSER="gemma4",
        FAMILIES="Gemma 4",
    ),
}
"""Dialects of this file by name."""
