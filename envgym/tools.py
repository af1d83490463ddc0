"""Tools: name, description and JSON schema of the arguments.

`Sandbox.describe()` returns the schemas. This module validates a model's arguments (`validate`) and
renders tools for a prompt (`render_compact`, `to_openai`). Validated: type, enum, const,
anyOf/oneOf, required, unknown arguments, items, properties, bounds and lengths, and that integers
fit in 64 bits. Not validated: `$ref`, `pattern`, `format` and other keywords; these are left to the
tool.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.argument_values import INTEGER_BITS, has_large_integer, has_type, is_same
from envgym.errors import SpecError, did_you_mean
from envgym.text import clean_value

MAX_PROBLEMS = 5
"""Maximum number of problems reported to the model for one call."""

PYTHON_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}
SPOKEN = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """Tool as the model sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments: an object with `properties` and `required`."""

    @classmethod
    def from_schema(cls, schema: dict[str, Any]) -> Tool:
        """Build a tool from an OpenAI function schema.

        The wrapper `{"type": "function", "function": ...}` is optional.

        Raises:
            SpecError: If the name is missing or the parameters are not an object schema.
        """
        plain = clean_value(schema.get("function", schema))
        name = plain.get("name")
        parameters = plain.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(name, str) or not name:
            raise SpecError(f"a tool's schema needs a name, got {_short(plain)}")
        if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
            raise SpecError(
                f"tool '{name}': parameters must be a JSON schema of type 'object', "
                f"got {_short(parameters)}"
            )
        return cls(name, plain.get("description") or "", parameters)

    @property
    def properties(self) -> dict[str, dict[str, Any]]:
        """Schema of each argument by name, in the order of the signature."""
        return self.parameters.get("properties", {})

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("required", ()))


def tools_from(schemas: Iterable[dict[str, Any]]) -> dict[str, Tool]:
    """Return the tools by name, in order.

    Raises:
        SpecError: If two tools have the same name.
    """
    tools: dict[str, Tool] = {}
    for schema in schemas:
        tool = Tool.from_schema(schema)
        if tool.name in tools:
            raise SpecError(
                f"two tools are named '{tool.name}'; rename one, a model can only call by name"
            )
        tools[tool.name] = tool
    return tools


def unknown_tool(name: str, known: Iterable[str]) -> str:
    """Return the error message for a call to an unknown tool."""
    known = list(known)
    return (
        f"unknown tool '{name}'"
        f"{did_you_mean(name, known) or '; tools: ' + (', '.join(known) or 'none')}"
    )


def validate(tool: Tool, arguments: dict[str, Any]) -> list[str]:
    """Return the problems of a call's arguments as short messages for the model.

    Values are not coerced, but an integer is accepted as a number. The list is empty if the
    arguments are valid.
    """
    problems = [
        f"{name} has an integer that does not fit in {INTEGER_BITS} bits"
        for name, value in arguments.items()
        if has_large_integer(value)
    ]
    # Other checks quote the values, and Python does not print an integer of any size.
    problems = problems or _object_problems(
        arguments, tool.parameters, where="", noun="argument", closed=True
    )
    if len(problems) > MAX_PROBLEMS:
        return [*problems[:MAX_PROBLEMS], f"and {len(problems) - MAX_PROBLEMS} more"]
    return problems


def to_openai(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return the tools in the form used by chat templates and OpenAI-compatible servers."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def render_compact(tools: Iterable[Tool]) -> str:
    """Return one line per tool, as a Python signature with a short description.

    `list_notes(contact_id: str, page: int = 1)  # Notes of one contact, newest first.`
    To save tokens, only the first line of the description is used and descriptions of arguments are
    omitted. An optional argument without a default in the schema shows `...`.
    """
    return "\n".join(_signature(tool) + _remark(tool.description) for tool in tools)


def tools_section(tools: Iterable[Tool], usage: str) -> str:
    """Return the end of a system message that lists tools and shows how to call one.

    Args:
        tools: Tools. Without any, the section is empty.
        usage: Instruction of the dialect of calls.
    """
    listing = render_compact(tools)
    return f"\n\nTools:\n{listing}\n\n{usage}" if listing else ""


def _signature(tool: Tool) -> str:
    return (
        f"{tool.name}("
        f"{', '.join(_parameter(n, s, n in tool.required) for n, s in tool.properties.items())})"
    )


def _parameter(name: str, schema: dict[str, Any], required: bool) -> str:
    if required:
        return f"{name}: {type_name(schema)}"
    default = _python_literal(schema["default"]) if "default" in schema else "..."
    kind = type_name(schema).removesuffix("|None") if default == "None" else type_name(schema)
    return f"{name}: {kind} = {default}"


def _remark(description: str) -> str:
    first_line = description.strip().partition("\n")[0].strip()
    return f"  # {first_line}" if first_line else ""


def type_name(schema: dict[str, Any]) -> str:
    """Return a schema as a Python-like type: `str`, `list[int]`, `"phone"|"email"`, `str|None`."""
    if "const" in schema:
        return _python_literal(schema["const"])
    if "enum" in schema:
        return "|".join(map(_python_literal, schema["enum"]))
    if options := _options(schema):
        return "|".join(dict.fromkeys(map(type_name, options)))
    kind = schema.get("type")
    if isinstance(kind, list):
        return "|".join(type_name({**schema, "type": one}) for one in kind)
    if kind == "null":
        return "None"
    if kind == "array" and schema.get("items"):
        return f"list[{type_name(schema['items'])}]"
    return PYTHON_NAMES.get(str(kind), "any")


def _python_literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _options(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema.get("anyOf") or schema.get("oneOf") or []


def _object_problems(
    value: dict[str, Any], schema: dict[str, Any], *, where: str, noun: str, closed: bool
) -> list[str]:
    """Return the problems of an object's keys and values.

    If `closed`, keys that the schema does not name are rejected.
    """
    properties: dict[str, Any] = schema.get("properties", {})
    suffix = f" in {where}" if where else ""
    problems = [
        f"missing {noun} '{name}'{suffix} ({type_name(properties.get(name, {}))})"
        for name in schema.get("required", ())
        if name not in value
    ]
    # Schemas made from Python functions do not mention extra keys, but the function would raise a
    # TypeError for them.
    extra = schema.get("additionalProperties", not closed)
    for name, item in value.items():
        path = f"{where}.{name}" if where else name
        if name in properties:
            problems += _problems(item, properties[name], path)
        elif isinstance(extra, dict):
            problems += _problems(item, extra, path)
        elif not extra:
            hint = did_you_mean(name, properties) or (
                "; takes " + ", ".join(properties) if properties else "; takes none"
            )
            problems.append(f"unknown {noun} '{_cut(name)}'{suffix}{hint}")
    return problems


def _problems(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    """Return the problems of one value. `where` is its path, such as `rows[2].amount`."""
    if "const" in schema:
        return _choice_problems(value, [schema["const"]], where)
    if "enum" in schema:
        return _choice_problems(value, schema["enum"], where)
    if options := _options(schema):
        return _option_problems(value, options, where)
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds and not any(has_type(value, kind) for kind in kinds):
        return [
            f"{where} must be {' or '.join(SPOKEN.get(kind, str(kind)) for kind in kinds)}, "
            f"got {_short(value)}"
        ]
    if isinstance(value, list):
        return _size_problems(len(value), schema, where, "Items", "items") + _item_problems(
            value, schema, where
        )
    if isinstance(value, dict):
        return _object_problems(value, schema, where=where, noun="key", closed=False)
    if isinstance(value, str):
        return _size_problems(len(value), schema, where, "Length", "characters")
    return _bound_problems(value, schema, where)


def _choice_problems(value: Any, choices: Sequence[Any], where: str) -> list[str]:
    if any(is_same(value, choice) for choice in choices):
        return []
    listed = ", ".join(_short(choice) for choice in choices)
    return [f"{where} must be {'one of ' if len(choices) > 1 else ''}{listed}, got {_short(value)}"]


def _option_problems(value: Any, options: Sequence[dict[str, Any]], where: str) -> list[str]:
    found = [_problems(value, option, where) for option in options]
    if not all(found):
        return []
    # If exactly one option has the right type, its message is the most helpful.
    meant = [
        problems
        for problems, option in zip(found, options, strict=True)
        if isinstance(option.get("type"), str) and has_type(value, option["type"])
    ]
    if len(meant) == 1:
        return meant[0]
    return [
        f"{where} must be {' or '.join(_spoken(option) for option in options)}, got {_short(value)}"
    ]


def _spoken(option: dict[str, Any]) -> str:
    return (
        SPOKEN.get(str(option.get("type")), type_name(option))
        if "enum" not in option
        else type_name(option)
    )


def _item_problems(value: list[Any], schema: dict[str, Any], where: str) -> list[str]:
    items = schema.get("items")
    return (
        [
            problem
            for i, item in enumerate(value)
            for problem in _problems(item, items, f"{where}[{i}]")
        ]
        if items
        else []
    )


def _size_problems(
    size: int, schema: dict[str, Any], where: str, keyword: str, unit: str
) -> list[str]:
    low = schema.get(f"min{keyword}", 0)
    high = schema.get(f"max{keyword}")
    if size < low:
        return [f"{where} must have at least {low} {unit}, got {size}"]
    return (
        [f"{where} must have at most {high} {unit}, got {size}"]
        if high is not None and size > high
        else []
    )


def _bound_problems(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    bounds = (
        ("minimum", "at least", lambda bound: value >= bound),
        ("maximum", "at most", lambda bound: value <= bound),
        ("exclusiveMinimum", "more than", lambda bound: value > bound),
        ("exclusiveMaximum", "less than", lambda bound: value < bound),
    )
    return [
        f"{where} must be {words} {schema[key]}, got {_short(value)}"
        for key, words, holds in bounds
        if key in schema and not holds(schema[key])
    ]


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
