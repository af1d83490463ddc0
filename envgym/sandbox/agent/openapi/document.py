"""Read the operations of an OpenAPI 3 document as tools with typed arguments.

Path, query and JSON-body properties become one flat list of arguments that keeps required, enum and
bounds. Required headers become arguments; optional ones are dropped. A name in both path and body
is one argument. Not supported: other bodies than JSON, cookies, Swagger 2, callbacks, webhooks.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..describe import RESERVED
from ..errors import AppError
from .schemas import Reader, Schema, plain_schema

METHODS = ("get", "post", "put", "patch", "delete")
IGNORED_HEADERS = ("accept", "content-type", "authorization")  # OpenAPI 3.1, Parameter Object


@dataclass(frozen=True)
class Place:
    """Place of an argument in a request."""

    where: str
    """Part of the request: path, query, header or body."""
    name: str
    """Name in that part. Empty for the whole body."""


@dataclass(frozen=True)
class Operation:
    """Operation of an OpenAPI document, described as a tool."""

    name: str
    """Tool name in snake_case, from the `operationId`, or from method and path."""
    method: str
    """HTTP method in lower case."""
    path: str
    description: str
    parameters: Schema
    """JSON schema (object) of the arguments."""
    places: dict[str, tuple[Place, ...]]
    """Argument name to its places in the request."""
    body: Schema | None
    """Resolved schema of the JSON body."""
    response: Schema | None
    """Resolved schema of the first successful JSON response. `None` if there is no such one."""
    extra: dict[str, Any]
    """`x-` fields of the operation. The fields of its path are used as defaults."""
    problem: str = ""
    """Reason why the operation cannot be called. Empty if it can."""

    @property
    def schema(self) -> Schema:
        """OpenAI function schema of the tool."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}

    def argument(self, where: str, name: str) -> str:
        """Return the argument that is sent in a place. Raises KeyError."""
        return {place: argument for argument, places in self.places.items() for place in places}[
            Place(where, name)
        ]


def read_operations(document: Any, where: str) -> list[Operation]:
    """Return the operations of a parsed document, in document order.

    Args:
        where: File of the document, for messages.

    Raises:
        AppError: If this is not a valid OpenAPI 3 document, or two operations have one name.
    """
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        found = (
            "Swagger 2; convert it first"
            if isinstance(document, dict) and "swagger" in document
            else f"openapi: {version!r}"
        )
        raise AppError(f"{where}: must be an OpenAPI 3 document (`openapi: 3.x`), got {found}")
    try:
        operations = list(_operations(Reader(document)))
    except AppError as error:
        raise AppError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise AppError(
            f"{where}: is not valid OpenAPI 3: {type(error).__name__}: {error}"
        ) from None
    if not operations:
        raise AppError(f"{where}: has no operation under `paths`")
    by_name: dict[str, Operation] = {}
    for operation in operations:
        if (other := by_name.setdefault(operation.name, operation)) is not operation:
            pair = (
                f"{other.method.upper()} {other.path} and "
                f"{operation.method.upper()} {operation.path}"
            )
            raise AppError(
                f"{where}: {pair} are both named '{operation.name}'; give one another operationId"
            )
    return operations


def _operations(reader: Reader) -> Iterator[Operation]:
    for path, item in (reader.document.get("paths") or {}).items():
        item = reader.follow(item)
        for method in METHODS:
            if method in item:
                yield _operation(reader, method, str(path), item, item[method])


def _operation(reader: Reader, method: str, path: str, item: Schema, raw: Schema) -> Operation:
    words = (raw.get("summary"), raw.get("description"))
    extra = {
        key: value
        for source in (item, raw)
        for key, value in source.items()
        if str(key).startswith("x-")
    }
    body, required, problem = _body(reader, raw)
    # A PATCH keeps omitted properties, so they have no default.
    shown = _without_defaults(body) if method == "patch" and body else body
    parameters, places = _arguments(_parameters(reader, item, raw), shown, required)
    missing = [
        name
        for name in re.findall(r"{([^{}]+)}", path)
        if Place("path", name) not in sum(places.values(), ())
    ]
    if missing:
        raise AppError(
            f"{method.upper()} {path}: does not declare its path parameter '{missing[0]}'"
        )
    return Operation(
        tool_name(raw.get("operationId") or f"{method} {path}"),
        method,
        path,
        "\n".join(" ".join(w.split()) for w in words if w),
        parameters,
        places,
        body,
        _response(reader, raw),
        extra,
        problem,
    )


def tool_name(text: str) -> str:
    """Convert `listOrders`, `orders.list` or `get /orders/{id}` to a snake_case tool name."""
    name = snake(text) or "operation"
    return argument_name(f"_{name}" if name[0].isdigit() else name)


def snake(text: str) -> str:
    parted = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", text)
    return re.sub(r"\W+|_+", "_", parted).strip("_").lower()


def argument_name(name: str) -> str:
    """Convert a name to a Python identifier that is neither a keyword nor a reserved parameter."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "value"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    return f"{plain}_" if keyword.iskeyword(plain) or plain in RESERVED else plain


def _parameters(reader: Reader, item: Schema, raw: Schema) -> list[Schema]:
    """Return the parameters that become arguments. The operation overrides its path."""
    found: dict[tuple[str, str], Schema] = {}
    for parameter in [*(item.get("parameters") or ()), *(raw.get("parameters") or ())]:
        parameter = reader.follow(parameter)
        found[parameter["in"], parameter["name"]] = parameter
    kept = []
    for (where, name), parameter in found.items():
        wanted = where in ("path", "query") or (where == "header" and parameter.get("required"))
        if wanted and name.lower() not in (IGNORED_HEADERS if where == "header" else ()):
            content = next(iter((parameter.get("content") or {}).values()), {})
            schema = reader.resolve(
                parameter.get("schema") or content.get("schema") or {"type": "string"}
            )
            kept.append(
                parameter
                | {"schema": schema, "required": where == "path" or bool(parameter.get("required"))}
            )
    return kept


def _body(reader: Reader, raw: Schema) -> tuple[Schema | None, bool, str]:
    """Return the schema of the JSON body, whether it is required, and a problem or ""."""
    if "requestBody" not in raw:
        return None, False, ""
    request = reader.follow(raw["requestBody"])
    schema = _json_schema(request.get("content") or {})
    if schema is None:
        kinds = ", ".join(request.get("content") or ()) or "nothing"
        return None, False, f"its body is {kinds}, and only JSON bodies are supported"
    return reader.resolve(schema), bool(request.get("required")), ""


def _response(reader: Reader, raw: Schema) -> Schema | None:
    for status, response in sorted(
        (raw.get("responses") or {}).items(), key=lambda pair: str(pair[0])
    ):
        if str(status).startswith("2"):
            schema = _json_schema(reader.follow(response).get("content") or {})
            return None if schema is None else reader.resolve(schema)
    return None


def _json_schema(content: Schema) -> Schema | None:
    for kind, media in content.items():
        if re.fullmatch(r"application/(.+\+)?json|\*/\*", kind.partition(";")[0].strip()):
            return media.get("schema") or {}
    return None


def _arguments(
    parameters: list[Schema], body: Schema | None, body_required: bool
) -> tuple[Schema, dict[str, tuple[Place, ...]]]:
    properties: dict[str, Schema] = {}
    places: dict[str, tuple[Place, ...]] = {}
    required: set[str] = set()
    for parameter in parameters:
        name = _free(argument_name(parameter["name"]), parameter["in"], properties)
        words = parameter["schema"].get("description") or parameter.get("description")
        properties[name] = plain_schema(parameter["schema"]) | (
            {"description": " ".join(words.split())} if words else {}
        )
        places[name] = (Place(parameter["in"], parameter["name"]),)
        required |= {name} if parameter["required"] else set()
    for wire, schema, needed in _fields(body):
        name = argument_name(wire) if wire else "body"
        if places.get(name, ()) == (Place("path", wire),):
            places[name] += (Place("body", wire),)
            continue
        name = _free(name, "body", properties)
        properties[name], places[name] = plain_schema(schema), (Place("body", wire),)
        required |= {name} if needed and body_required else set()
    names = [
        *(name for name in properties if name in required),
        *(name for name in properties if name not in required),
    ]
    schema = {"type": "object", "properties": {name: properties[name] for name in names}}
    return schema | {"required": names[: len(required)], "additionalProperties": False}, places


def _fields(body: Schema | None) -> Iterator[tuple[str, Schema, bool]]:
    """Yield (name, schema, required) of the writable body properties.

    A body that is not a plain object is one field with an empty name.
    """
    if body is None:
        return
    if not body.get("properties") or "anyOf" in body or "oneOf" in body:
        yield "", body, True
        return
    for name, schema in body["properties"].items():
        if not schema.get("readOnly"):
            yield name, schema, name in body.get("required", ())


def _without_defaults(body: Schema) -> Schema:
    properties = body.get("properties", {}).items()
    return body | {
        "properties": {
            name: {k: v for k, v in inner.items() if k != "default"} for name, inner in properties
        }
    }


def _free(name: str, where: str, taken: dict[str, Schema]) -> str:
    name = f"{where}_{name}" if name in taken else name
    while name in taken:
        name += "_"
    return name
