"""Read YAML files and report each error with its file and line.

Environments and the trainer's block are read in three steps: `read_yaml` keeps the line of every
key, `apply_overrides` applies `key.sub=value` settings, and `validate` checks the result against a
pydantic model and reports all errors at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from envgym.block import Block, ShortForm
from envgym.errors import SpecError, did_you_mean
from envgym.secrets.references import has_reference
from envgym.text import clean, clean_value
from envgym.text.bounded_yaml import DEFAULT, load_yaml

Where = dict[tuple[str | int, ...], str]
"""Path of keys -> `file:line`, or the override, that set the value."""

ShortForms = Mapping[tuple[str, ...], ShortForm]
"""Path of a block -> the short form that may stand in its place."""

Model = TypeVar("Model", bound=BaseModel)
MOST_GIVEN = 200
"""Maximum number of characters of a wrong value in a message."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    """Return the mapping in a YAML file, and the place of each of its keys.

    Raises:
        SpecError: If the file cannot be read, is not valid YAML, is too large or too deep, is no
            mapping, or has a key twice.
    """
    try:
        DEFAULT.check_size(path.stat().st_size)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            f"{path}: no such file. `envgym list` shows the environments that are known by name."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}:1: {error}") from None
    try:
        data, node = load_yaml(text)
        data = clean_value(data)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # such as the date 2026-13-01
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path}: the YAML is nested too deeply") from None
    if not isinstance(data, dict):
        raise SpecError(
            f"{path}:1: must hold a mapping of keys to values, got {type(data).__name__}"
        )
    where: Where = {(): f"{path}:1"}
    doubled: list[str] = []
    _walk(node, (), path, where, doubled)
    if doubled:
        raise SpecError("\n".join(doubled))
    return data, where


def _walk(
    node: yaml.Node | None, at: tuple[str | int, ...], path: Path, where: Where, doubled: list[str]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, clean(key.value) if isinstance(key.value, str) else str(key.value))
            if here in where:
                doubled.append(
                    f"{path}:{key.start_mark.line + 1}: {dotted(here)}: "
                    f"given twice (first in {where[here]})"
                )
            where[here] = f"{path}:{key.start_mark.line + 1}"
            _walk(value, here, path, where, doubled)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            where[(*at, index)] = f"{path}:{value.start_mark.line + 1}"
            _walk(value, (*at, index), path, where, doubled)


def dotted(at: Iterable[str | int]) -> str:
    return ".".join(map(str, at))


def write_out_short_forms(
    data: dict[str, Any], where: Where, short_forms: ShortForms, *, at: tuple[str, ...]
) -> None:
    """Replace plain strings of `data` at `at` by the blocks that they are short for.

    Args:
        data: The whole mapping; it is changed in place.
        where: Locations of its keys; those of the new keys are added.
        short_forms: Path of a block -> its short form.
        at: Path of the mapping whose keys are examined, such as ("train",).
    """
    inner: Any = data
    for step in at:
        inner = inner.get(step) if isinstance(inner, dict) else None
    for path, form in short_forms.items():
        key = path[-1]
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            inner[key] = {form.key: inner[key]}
            if (*at, key) in where:
                where[(*at, key, form.key)] = where[(*at, key)]


def apply_overrides(
    data: dict[str, Any],
    where: Where,
    overrides: Iterable[str],
    *,
    short_forms: ShortForms | None = None,
) -> None:
    """Apply `key.sub=value` settings to `data` in place, in order.

    Args:
        data: Mapping that is changed.
        where: Places of its keys, which are changed too.
        overrides: Settings. Their values are parsed as YAML.
        short_forms: Path of a block -> its short form, such as `train.model=NAME`.

    Raises:
        SpecError: If a setting is malformed, or a parent of its key is no mapping.
    """
    known = short_forms or {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(
                f"override '{text}': must look like key.sub=value, for example train.steps=50"
            )
        try:
            parsed = clean_value(load_yaml(value)[0])
        except yaml.YAMLError:
            raise SpecError(
                f"override '{text}': {value!r} is not valid YAML; quote it if it is meant as text"
            ) from None
        *parents, last = path = key.split(".")
        form = known.get(tuple(path))
        if form and isinstance(parsed, str):
            if form.keeps_rest:
                *parents, last = path = [*path, form.key]
            else:
                parsed = {form.key: parsed}
        target = data
        for depth, name in enumerate(parents):
            inner = target.setdefault(name, {})
            if inner is None:
                inner = target[name] = {}
            if not isinstance(inner, dict):
                raise SpecError(
                    f"override '{text}': {dotted(path[: depth + 1])} is a {type(inner).__name__}, "
                    "it has no keys"
                )
            target = inner
        target[last] = parsed
        where[tuple(path)] = f"override '{text}'"


def validate(
    model: type[Model], data: Mapping[str, Any], where: Where, *, at: tuple[str | int, ...] = ()
) -> Model:
    """Return `data` as a `model`.

    Args:
        model: A pydantic model.
        data: The mapping.
        where: Places of its keys.
        at: Path of keys at which the mapping is found in the file.

    Raises:
        SpecError: If there are errors, with one line `file:line: key: problem` for each.
    """
    is_block = isinstance(data, Mapping) and issubclass(model, Block)
    old = model.outdated_keys(data) if is_block else ()  # type: ignore[attr-defined]
    if lines := [f"{place(where, (*at, *path))}: {dotted((*at, *path))}: {m}" for path, m in old]:
        raise SpecError("\n".join(lines))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(error_lines(model, error, where, at=at))) from None


def error_lines(
    model: type[BaseModel], error: ValidationError, where: Where, *, at: tuple[str | int, ...] = ()
) -> Iterator[str]:
    """Yield one line for each error of pydantic; arguments as in `validate`.

    A step in <angle brackets> of an error's location is a branch of a union (`Tag`), not a key.
    """
    for item in error.errors():
        item["loc"] = tuple(step for step in item["loc"] if not str(step).startswith("<"))
        path = (*at, *item["loc"])
        yield f"{place(where, path)}: {dotted(path)}: {_problem(model, item)}"


def place(where: Where, path: tuple[str | int, ...]) -> str:
    """Return the location of the innermost key of `path` that has one."""
    return next(
        where[path[:size]] for size in range(len(path), -1, -1) if path[:size] in where or size == 0
    )


def _problem(model: type[BaseModel], item: Any) -> str:
    loc = item["loc"]
    kind = item["type"]
    given = item["input"]
    if kind == "extra_forbidden":
        return "unknown key" + (
            did_you_mean(loc[-1], _keys_of(model, loc[:-1]))
            or f"; known: {', '.join(_keys_of(model, loc[:-1]))}"
        )
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(", ")]
        return f"is {given!r}{did_you_mean(given, options)} Available: {expected}".replace(
            "' Available", "'. Available"
        )
    if kind == "finite_number" or (kind == "float_type" and type(given) is int):
        return f"must be a finite number, got {_brief(given)}"
    if isinstance(given, str) and has_reference(given):
        return f"uses an environment variable that is not set: {given}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}" + (
        "" if isinstance(given, dict) or repr(given) in message else f", got {_brief(given)}"
    )


def _brief(given: Any) -> str:
    try:
        text = repr(given)
    except ValueError:  # an integer with thousands of digits
        return "an integer with thousands of digits"
    return text if len(text) <= MOST_GIVEN else f"{text[:MOST_GIVEN]}..."


def _keys_of(model: Any, loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys allowed at `loc` inside `model`, by alias."""
    from typing import get_args, get_origin

    for step in loc:
        if get_origin(model) in (dict, list, tuple):
            model = get_args(model)[1 if get_origin(model) is dict else 0]
        else:
            model = next(
                (fields[step] for fields in map(_fields, _models_in(model)) if step in fields), None
            )
    return [key for found in _models_in(model) for key in _fields(found)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models among the branches of a union."""
    from typing import get_args, get_origin

    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for branch in get_args(annotation) for model in _models_in(branch)]


def _fields(model: type[BaseModel]) -> dict[Any, Any]:
    return {(info.alias or name): info.annotation for name, info in model.model_fields.items()}
