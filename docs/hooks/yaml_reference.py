"""The reference page of the YAML, from the JSON schema of an environment."""

from __future__ import annotations

from collections.abc import Iterator


def yaml_page(note: str) -> str:
    """Return the page of every key of an environment's YAML.

    Args:
        note: Text at the top of every generated page.
    """
    from envgym.spec.environment import json_schema

    schema = json_schema()
    lines = ["# YAML", "", note]
    lines += [
        "Every key of an environment's YAML, with its type, bounds and default. Override a key on "
        "the command line with `key.sub=value`. `envgym schema` prints the same as JSON schema.",
        "",
        "`*` stands for a name that you choose, `[]` for an item of a list.",
        "",
    ]
    found = list(blocks_of(schema, schema["$defs"]))
    for path, block in found:
        title = f"`{path}`" if path else "Top level"
        if sum(path == other for other, _ in found) > 1:  # alternatives under one key
            title += f" with `{next(iter(block['properties']))}`"
        lines += [f"## {title}", ""]
        lines += [flat(block.get("description", "")), ""] if path else []
        lines += keys_table(block, schema["$defs"])
    return "\n".join(lines)


def blocks_of(block: dict, defs: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield path and schema of a block and of all blocks below it, parents first."""
    yield path, block
    for key, field in block["properties"].items():
        for suffix, below in blocks_in(field, defs):
            yield from blocks_of(below, defs, f"{path}.{key}{suffix}".lstrip("."))


def blocks_in(field: dict, defs: dict) -> Iterator[tuple[str, dict]]:
    """Yield the blocks that a key may contain, each with the suffix of its path."""
    if "$ref" in field:
        field = defs[field["$ref"].rsplit("/", 1)[1]]
    if "properties" in field:
        yield "", field
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from blocks_in(option, defs)
    if isinstance(field.get("items"), dict):
        yield from ((f"[]{suffix}", below) for suffix, below in blocks_in(field["items"], defs))
    if isinstance(field.get("additionalProperties"), dict):
        named = blocks_in(field["additionalProperties"], defs)
        yield from ((f".*{suffix}", below) for suffix, below in named)


def keys_table(block: dict, defs: dict) -> list[str]:
    """Return the table of one block's keys."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in block["properties"].items():
        cells = (
            f"`{key}`",
            type_of(field, defs) + bounds_of(field),
            default_of(field, required=key in block.get("required", ()), defs=defs),
            meaning_of(field, defs),
        )
        lines.append(f"| {' | '.join(cell(text) for text in cells)} |")
    return [*lines, ""]


def meaning_of(field: dict, defs: dict) -> str:
    """Return the description of a key, by default that of the blocks that it may contain."""
    blocks = [block.get("description", "") for _, block in blocks_in(field, defs)]
    return flat(field.get("description") or " ".join(blocks))


def type_of(field: dict, defs: dict) -> str:
    """Return the type of a JSON schema in words."""
    if "$ref" in field:
        return type_of(defs[field["$ref"].rsplit("/", 1)[1]], defs)
    if options := (*field.get("anyOf", ()), *field.get("oneOf", ())):
        return " or ".join(dict.fromkeys(type_of(option, defs) for option in options))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "properties" in field:
        return "block"
    if field.get("type") == "array":
        items = field.get("items")
        return f"list of {type_of(items, defs)}" if isinstance(items, dict) else "list"
    if field.get("type") == "object":
        return "mapping"
    return field.get("format", field.get("type", "any")).replace("null", "none")


def bounds_of(field: dict) -> str:
    """Return the bounds of a number in words, with a leading comma."""
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "minItems": "items: at least",
        "pattern": "pattern",
    }
    options = (field, *field.get("anyOf", ()), *field.get("oneOf", ()))
    found = [
        f"{words[key]} `{option[key]}`" if key == "pattern" else f"{words[key]} {option[key]}"
        for option in options
        for key in words
        if key in option
    ]
    return "".join(f", {text}" for text in found)


def default_of(field: dict, *, required: bool, defs: dict) -> str:
    """Return the default of a key; a block's defaults are in its own table."""
    if required:
        return "required"
    value = field.get("default", "")
    if value is None:
        return "none"
    if value in ("", [], {}) and not isinstance(value, bool):
        return "empty"
    if isinstance(value, dict) and any(blocks_in(field, defs)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def flat(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return text.replace("|", "\\|")
