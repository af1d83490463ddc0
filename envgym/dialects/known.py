"""Tools that a parser may expect: their names and the schemas of their arguments."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

Known = Mapping[str, Mapping[str, Any]]
"""JSON schema of each argument, by tool and argument. A tool without schemas has an empty one."""


class HasProperties(Protocol):
    """Tool with a name and the JSON schema of each argument."""

    @property
    def name(self) -> str: ...

    @property
    def properties(self) -> Mapping[str, Any]: ...


Tools = Mapping[str, Any] | Iterable[str | Mapping[str, Any] | HasProperties]
"""Tools as a caller has them: names; OpenAI schemas; tools; or a mapping from name to tool."""


def known_tools(tools: Tools) -> Known:
    """Return the tools by name, with the schema of each argument if the caller has it.

    >>> known_tools(["look_up"])
    {'look_up': {}}
    """
    if isinstance(tools, Mapping):
        return {str(name): _properties(tool) for name, tool in tools.items()}
    return {_name(tool): _properties(tool) for tool in tools}


def is_near(name: str, known: Iterable[str]) -> bool:
    """Return whether a name is that of a tool, or probably meant as one.

    >>> is_near("functions.lookUp", ["look_up"]), is_near("Meeting", ["look_up"])
    (True, False)
    """
    plain = {_plain(each): each for each in known}
    wanted = _plain(name)
    return wanted in plain or bool(difflib.get_close_matches(wanted, plain, n=1, cutoff=0.85))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name[-100:].rpartition(".")[2]).casefold()


def _name(tool: str | Mapping[str, Any] | HasProperties) -> str:
    if isinstance(tool, str):
        return tool
    if isinstance(tool, Mapping):
        return str(tool.get("function", tool).get("name", ""))
    return tool.name


def _properties(tool: str | Mapping[str, Any] | HasProperties | None) -> Mapping[str, Any]:
    if tool is None or isinstance(tool, str):
        return {}
    if not isinstance(tool, Mapping):
        return tool.properties
    function = tool.get("function", tool)
    schema = function.get("parameters", function)
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}
