"""Resolve the schemas of an OpenAPI document to plain JSON schema.

Resolves `$ref` and `allOf`, and converts `nullable` and boolean exclusive bounds of OpenAPI 3.0. A
recursive schema becomes {} (any value) at its second level. Not supported: references to other
files.
"""

from __future__ import annotations

from typing import Any

from ..errors import AppError

Schema = dict[str, Any]

DEEPEST = 8
"""Maximum depth of nested references."""
COMPONENT = "$component"
"""Key on a resolved schema that holds its name under `components`."""
_PLAIN = (
    "type",
    "enum",
    "const",
    "default",
    "format",
    "pattern",
    "description",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
)


def plain_schema(schema: Schema) -> Schema:
    """Return a resolved schema for the model, without marks, `x-` and read-only fields."""
    plain = {key: schema[key] for key in _PLAIN if key in schema}
    if "properties" in schema:
        writable = {
            name: inner for name, inner in schema["properties"].items() if not inner.get("readOnly")
        }
        plain["properties"] = {name: plain_schema(inner) for name, inner in writable.items()}
        plain["required"] = [name for name in schema.get("required", ()) if name in writable]
    for key in ("items", "additionalProperties"):
        if key in schema:
            plain[key] = plain_schema(schema[key]) if isinstance(schema[key], dict) else schema[key]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            plain[key] = [plain_schema(option) for option in schema[key]]
    return plain


_NUMBER = (int, float)
_SHAPES: dict[str, Any] = {
    "type": (str, list),
    "enum": list,
    "format": str,
    "description": str,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "minLength": int,
    "maxLength": int,
    "minItems": int,
    "maxItems": int,
    "properties": dict,
    "anyOf": list,
    "oneOf": list,
    "allOf": list,
}


def _check_shape(schema: Schema) -> None:
    """Check the types of the keywords that are read later. Raises AppError."""
    for key, kinds in _SHAPES.items():
        if key in schema and not isinstance(schema[key], kinds):
            raise AppError(f"a schema's '{key}' cannot be {str(schema[key])[:60]!r}")
    if any(not isinstance(kind, str) for kind in schema.get("type", ())):
        raise AppError(f"a schema's 'type' cannot be {str(schema['type'])[:60]!r}")


class Reader:
    """Resolve references inside one document."""

    def __init__(self, document: Schema):
        self.document = document

    def follow(self, part: Any) -> Schema:
        """Return a part of the document after following its references."""
        for _ in range(DEEPEST):
            if not isinstance(part, dict):
                raise AppError(f"expected a mapping, got {str(part)[:60]!r}")
            if "$ref" not in part:
                return part
            part = self._at(part["$ref"])
        raise AppError(f"'{part.get('$ref')}' is nested in too many references")

    def _at(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise AppError(
                f"refers to '{reference}' in another file; bundle the document into one file first"
            )
        part: Any = self.document
        for step in reference[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, dict) or step not in part:
                raise AppError(f"refers to '{reference}', which does not exist")
            part = part[step]
        return part

    def resolve(self, schema: Any, seen: tuple[str, ...] = ()) -> Schema:
        """Return the schema as JSON schema without references.

        `readOnly`, `writeOnly` and `x-` fields are kept.
        """
        if isinstance(schema, bool):
            return {}
        if not isinstance(schema, dict):
            raise AppError(f"expected a schema, got {str(schema)[:60]!r}")
        if "$ref" in schema:
            reference = schema["$ref"]
            target = self._at(reference)
            if reference in seen or len(seen) >= DEEPEST:
                return {}
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            mark = {COMPONENT: reference.rpartition("/")[2]}
            return self.resolve(target, (*seen, reference)) | self.resolve(beside, seen) | mark
        _check_shape(schema)
        own = {
            key: value
            for key, value in schema.items()
            if key in _PLAIN or key in ("readOnly", "writeOnly") or key[:2] == "x-"
        }
        if not isinstance(own.get("required", []), list):
            # Swagger 1 wrote `required: true` on a property; it has no meaning here.
            del own["required"]
        own = _modern(own, nullable=schema.get("nullable") is True)
        if "properties" in schema:
            own["properties"] = {
                str(name): self.resolve(inner, seen) for name, inner in schema["properties"].items()
            }
            own.setdefault("type", "object")
        for key in ("items", "additionalProperties"):
            if key in schema:
                own[key] = (
                    schema[key]
                    if isinstance(schema[key], bool)
                    else self.resolve(schema[key], seen)
                )
        for key in ("anyOf", "oneOf"):
            if key in schema:
                own[key] = [self.resolve(option, seen) for option in schema[key]]
        return _merged([*(self.resolve(part, seen) for part in schema.get("allOf") or ()), own])


def _modern(schema: Schema, *, nullable: bool) -> Schema:
    """Convert `nullable` and boolean exclusive bounds of OpenAPI 3.0 to JSON schema."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    if nullable and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    return schema


def _merged(parts: list[Schema]) -> Schema:
    """Merge the parts of `allOf`. The component name is kept only if one part has properties."""
    merged: Schema = {}
    for part in parts:
        properties = merged.get("properties", {}) | part.get("properties", {})
        required = list(dict.fromkeys([*merged.get("required", ()), *part.get("required", ())]))
        merged = (
            merged
            | part
            | ({"properties": properties} if properties else {})
            | ({"required": required} if required else {})
        )
    if len([part for part in parts if part.get("properties")]) > 1:
        merged.pop(COMPONENT, None)
    return merged
