"""Values between tags, shared by the dialects that write each argument in tags.

Texts are written as they are, everything else as JSON. A text that would be read as something else,
such as "7", is written in quotes unless the schema of the tool says that the argument is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envgym.dialects.json_calls import dump
from envgym.dialects.literals import MalformedCall, read_json, read_python_value
from envgym.errors import UsageError

_PYTHON_WORDS = {"True": True, "False": False, "None": None}
NAME = r"[\w.\-:/]+"
"""Pattern of the names of tools that can be written."""


@dataclass(frozen=True)
class TaggedValue:
    """How one dialect writes a value."""

    closing: str
    """Tag after the value."""
    line_breaks: bool = False
    """Whether the value is written on lines of its own. One line break at each end of a value is
    removed in any case."""

    def read(self, text: str, schema: Any = None) -> Any:
        """Return the value of a text between tags."""
        text = _inner(text)
        plain = _plain(text)
        types = _types(schema)
        if "string" not in types or types - {"string", "null"}:
            return plain
        if plain is None and "null" in types:
            return None
        # Quotes belong to the text, unless `write` would have added them.
        added = isinstance(plain, str) and self._must_quote(plain) and text == _quoted(plain)
        return plain if added else text

    def write(self, tool: str, value: Any, schema: Any = None) -> str:
        """Return a value as text between tags.

        Raises:
            UsageError: If JSON cannot express the value.
        """
        if not isinstance(value, str):
            text = dump(value, tool).replace("<", r"\u003c")
        elif self._must_quote(value) and not (
            _types(schema) == {"string"}
            and self.is_plain(value)
            and self.read(value, schema) == value
        ):
            text = _quoted(value)
        else:
            text = value
        return f"\n{text}\n" if self.line_breaks else text

    def is_plain(self, text: str) -> bool:
        """Return whether the text itself can stand between the tags."""
        if self.closing in text:
            return False
        return self.line_breaks or _inner(text) == text

    def _must_quote(self, text: str) -> bool:
        """Return whether a text without quotes would be read as another value."""
        return not self.is_plain(text) or _plain(text) != text


def tag_name(tool: str, key: str) -> str:
    """Return the name of an argument for a tag. Raises UsageError if no tag can hold it."""
    if not re.fullmatch(r"[^\s<>\"'=]([^\n\r<>\"'=]*[^\s<>\"'=])?", key):
        raise UsageError(f"'{key}' of '{tool}' cannot be written as a tag; rename the argument")
    return key


def tool_name(name: str) -> str:
    """Return the name of a tool for a tag. Raises UsageError if no tag can hold it."""
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"a tool named '{name}' cannot be called in this dialect; "
            "rename it or use another dialect"
        )
    return name


def _inner(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n") if "\n" in text else text


def _plain(text: str) -> Any:
    """Return the JSON or Python value in a text, or the text if it is neither."""
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        value, end = read_json(text)
        if end == len(text):
            return value
    except MalformedCall:
        pass
    if text[:1] not in ("[", "{"):
        return text
    try:
        return read_python_value(text)
    except MalformedCall:
        return text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("<", r"\u003c")


def _types(schema: Any) -> set[str]:
    """Return the JSON types that a schema allows; empty if it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    found = schema.get("type")
    types: set[str] = {found} if isinstance(found, str) else set(found or ())
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= _types(each)
    choices = schema.get("enum")
    if not types and isinstance(choices, list) and all(isinstance(each, str) for each in choices):
        return {"string"}
    return types
