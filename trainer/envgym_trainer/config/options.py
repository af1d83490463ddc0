"""Options of a loss or an advantage, read from the signature of its function.

The keyword-only parameters are the options: annotations and defaults give their schema, and the
docstring's `Args:` their descriptions. The file is parsed, not executed, so a YAML can be checked
without torch. A name is that of a file in `algorithms/losses/` or `algorithms/advantages/`, or
`file.py:name`, or `package.module:name`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from envgym.errors import did_you_mean

Kind = Literal["loss", "advantage"]
Positive = Annotated[float, Field(gt=0)]
"""Number above 0."""
NonNegative = Annotated[float, Field(ge=0)]
"""Number of at least 0."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""Number from 0 to 1."""

_ALGORITHMS = Path(__file__).parents[1] / "algorithms"
_FOLDERS: Mapping[Kind, Path] = {
    "loss": _ALGORITHMS / "losses",
    "advantage": _ALGORITHMS / "advantages",
}
_ANNOTATIONS: Mapping[str, Any] = {
    "__builtins__": {},
    "Annotated": Annotated,
    "Field": Field,
    "Fraction": Fraction,
    "Literal": Literal,
    "NonNegative": NonNegative,
    "Positive": Positive,
    "bool": bool,
    "float": float,
    "int": int,
    "str": str,
}
"""Names that the annotation of an option may use."""


@functools.cache
def shipped_names(kind: Kind) -> tuple[str, ...]:
    """Return the names of all losses or advantages of the folder.

    A file `NAME.py` counts if it has a function `NAME`.
    """
    files = sorted(_FOLDERS[kind].glob("*.py"))
    return tuple(file.stem for file in files if file.stem in _functions(file))


def options_model(kind: Kind, name: str) -> type[BaseModel]:
    """Return the pydantic model of the options of a loss or an advantage.

    Args:
        kind: "loss" or "advantage".
        name: Name of a file of the folder, `file.py:name` or `package.module:name`. The path of a
            file is relative to the current folder.

    Raises:
        ValueError: If there is no such function, or its signature does not fit.
    """
    file, function = _find(kind, name)
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        raise ValueError(f"{kind} '{name}': no such file: {file}") from None
    return _read_model(kind, file, function, changed)


def filled_in(kind: Kind, options: Mapping[str, Any], *, default: str) -> dict[str, Any]:
    """Return the name and all options of a loss or an advantage, checked, with their defaults.

    Args:
        kind: "loss" or "advantage".
        options: Options as read from YAML, with the key `name`.
        default: Name if there is none.

    Raises:
        ValueError: If the name is unknown, or an option is unknown or wrong.
    """
    name = options.get("name", default)
    if not isinstance(name, str):
        raise ValueError(f"name must be text, got {name!r}")
    model = options_model(kind, name)
    given = {key: value for key, value in options.items() if key != "name"}
    for key in given:
        if key not in model.model_fields:
            known = ", ".join(model.model_fields) or "none"
            hint = did_you_mean(key, model.model_fields) or "."
            raise ValueError(
                f"{kind} '{name}' has no option {key}{hint} It has: {known}. Leave {key} out"
            )
    return {"name": name, **model.model_validate(given).model_dump()}


def options_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of every option of the folder's functions, by the option's name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in shipped_names(kind):
        for option, schema in options_model(kind, name).model_json_schema()["properties"].items():
            found.setdefault(option, {})[name] = schema
    return {option: _common_schema(by_name) for option, by_name in found.items()}


def _common_schema(by_name: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one schema of an option that several functions have."""
    first = dict(next(iter(by_name.values())))
    names_by_text: dict[str, list[str]] = {}
    for name, schema in by_name.items():
        names_by_text.setdefault(schema.get("description", ""), []).append(name)
    words = [f"{', '.join(names)}: {text}" for text, names in names_by_text.items()]
    if len({repr(schema.get("default")) for schema in by_name.values()}) > 1:
        first.pop("default", None)
        defaults = [f"{name} {schema.get('default')}" for name, schema in by_name.items()]
        words.append(f"Default: {', '.join(defaults)}.")
    return first | {"description": " ".join(words)}


def _find(kind: Kind, name: str) -> tuple[Path, str]:
    """Return the file and the name of a function."""
    source, colon, function = name.rpartition(":")
    if not colon:
        if name not in shipped_names(kind):
            known = shipped_names(kind)
            hint = did_you_mean(name, known) or "."
            raise ValueError(
                f"{kind} '{name}' is unknown{hint} Available: {', '.join(known)}, or file.py:name "
                "for your own"
            )
        return _FOLDERS[kind] / f"{name}.py", name
    if source.endswith(".py"):
        return Path(source), function
    try:
        spec = importlib.util.find_spec(source)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"{kind} '{name}': there is no module '{source}'")
    return Path(spec.origin), function


def _functions(file: Path) -> dict[str, ast.FunctionDef]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{file}:{error.lineno}: not valid Python: {error.msg}") from None
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


@functools.lru_cache(maxsize=256)
def _read_model(kind: Kind, file: Path, function: str, changed: int) -> type[BaseModel]:
    """Return the model of one function's options; `changed` is the file's time, for the cache."""
    functions = _functions(file)
    if function not in functions:
        raise ValueError(f"no function '{function}' in {file}{did_you_mean(function, functions)}")
    definition = functions[function]
    if kind not in {_decorator(node) for node in definition.decorator_list}:
        raise ValueError(
            f"{file}:{definition.lineno}: '{function}' is no {kind}. Put @{kind}(...) above it"
        )
    fields: Any = dict(_fields(file, definition))
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    return create_model(f"{function}_options", __config__=config, **fields)


def _decorator(node: ast.expr) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return ast.unparse(target).rpartition(".")[2]


def _fields(file: Path, definition: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """Yield the name of each option, with its type and its field."""
    arguments = definition.args
    others = len(arguments.posonlyargs) + len(arguments.args)
    if others != 1 or arguments.vararg or arguments.kwarg:
        raise ValueError(
            f"{file}:{definition.lineno}: '{definition.name}' must have one argument, the inputs, "
            "and keyword-only options after a star, such as "
            f"def {definition.name}(inputs, *, scale: float = 1.0)"
        )
    texts = _argument_texts(ast.get_docstring(definition) or "")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        place = f"{file}:{argument.lineno}: option '{argument.arg}'"
        if argument.arg == "name":
            raise ValueError(f"{place}: `name` is the key of the function itself. Rename it")
        field: dict[str, Any] = {"description": texts.get(argument.arg)}
        if default is not None:
            try:
                field["default"] = ast.literal_eval(default)
            except ValueError:
                raise ValueError(f"{place}: the default must be a plain value") from None
        yield argument.arg, (_type(place, argument.annotation), Field(**field))


def _type(place: str, annotation: ast.expr | None) -> Any:
    known = ", ".join(sorted(set(_ANNOTATIONS) - {"__builtins__"}))
    if annotation is None:
        raise ValueError(f"{place}: needs a type. Available: {known}")
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    try:
        return eval(compile(ast.Expression(annotation), place, "eval"), dict(_ANNOTATIONS))
    except (NameError, TypeError, AttributeError):
        raise ValueError(
            f"{place}: type {ast.unparse(annotation)} is not known. Available: {known}"
        ) from None


def _argument_texts(docstring: str) -> dict[str, str]:
    """Return the descriptions of a Google-style `Args:` section, by argument."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()) for name, text in entries}
