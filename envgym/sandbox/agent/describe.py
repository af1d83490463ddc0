"""Build the JSON schema of a tool from its function's signature and docstring.

The host validates arguments against it before a call (`envgym/tools.py`).
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

from .errors import AppError

RESERVED = ("db", "now", "folder")
"""Parameters that the box supplies. They are not part of the schema."""

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Examples?):", re.MULTILINE)


def describe_tool(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the OpenAI function schema of a function: name, description, parameters.

    Types come from annotations (str, int, float, bool, Literal, list, dict, `X | None`),
    descriptions from a Google docstring. If the function has a `tool_schema` (an OpenAPI
    operation), it is used.

    Raises:
        AppError: If the function cannot be described; names function, parameter and file.
    """
    if ready := getattr(function, "tool_schema", None):
        return ready
    where = f"{inspect.getsourcefile(function)}: tool '{function.__name__}'"
    if inspect.iscoroutinefunction(function):
        raise AppError(f"{where}: is async; tools are plain functions")
    description, words = _read_docstring(function)
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise AppError(f"{where}: an annotation cannot be read: {error}") from None
    parameters = {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in RESERVED
    }
    if unknown := [name for name in words if name not in parameters and name not in RESERVED]:
        raise AppError(f"{where}: its docstring describes '{unknown[0]}', which is not a parameter")
    properties = {}
    for name, parameter in parameters.items():
        properties[name] = _property(parameter, hints.get(name), f"{where}: parameter '{name}'")
        if name in words:
            properties[name]["description"] = words[name]
    required = [
        name for name, parameter in parameters.items() if parameter.default is parameter.empty
    ]
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {"name": function.__name__, "description": description, "parameters": schema}


def _property(parameter: inspect.Parameter, hint: Any, where: str) -> dict[str, Any]:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise AppError(
            f"{where}: a tool takes named parameters only, "
            "no *args, **kwargs or positional-only ones"
        )
    if hint is None:
        raise AppError(f"{where}: has no type annotation")
    try:
        schema = _schema_of(hint)
        json.dumps(None if parameter.default is parameter.empty else parameter.default)
    except (TypeError, KeyError, ValueError):
        known = (
            "str, int, float, bool, Literal[...] of one of these, list[...], dict, X | None, "
            "with JSON values as defaults"
        )
        raise AppError(f"{where}: '{parameter}' has no JSON schema; possible are {known}") from None
    return (
        schema if parameter.default is parameter.empty else schema | {"default": parameter.default}
    )


def _schema_of(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation.

    Raises:
        TypeError, KeyError, ValueError: If the annotation has no JSON schema.
    """
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin is typing.Literal:
        (kind,) = {_NAMES[type(value)] for value in inner}
        return {"type": kind, "enum": list(inner)}
    if hint is list or origin is list:
        return {"type": "array"} | ({"items": _schema_of(inner[0])} if inner else {})
    if hint is dict or origin is dict:
        free = not inner or inner[1] is Any
        return {"type": "object"} | ({} if free else {"additionalProperties": _schema_of(inner[1])})
    if origin in (typing.Union, types.UnionType):
        (one,) = (option for option in inner if option is not types.NoneType)
        schema = _schema_of(one)
        return (
            schema
            | {"type": [schema["type"], "null"]}
            | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})
        )
    return {"type": _NAMES[hint]}


def _read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the text before the sections, one line a paragraph, and the parameter descriptions."""
    text, *sections = _SECTION.split(inspect.getdoc(function) or "")
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    words: dict[str, str] = {}
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title.startswith("Arg"):
            entries = re.split(r"^(?=\S)", textwrap.dedent(body.strip("\n")), flags=re.MULTILINE)
            pairs = [re.match(r"(\w+)(?: *\([^)]*\))?:(.*)", entry, re.DOTALL) for entry in entries]
            words |= {pair[1]: " ".join(pair[2].split()) for pair in pairs if pair}
    return "\n".join(paragraphs), words
