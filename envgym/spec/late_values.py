"""Values of environment variables that a YAML refers to, resolved when they are used.

`load_spec` accepts references to variables that are not set, so a YAML can be checked, listed and
explained without them. Worlds and runs call `with_values`, which requires them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from envgym.block import Block
from envgym.errors import PrerequisiteError, SpecError
from envgym.secrets import HIDDEN, get_logger
from envgym.secrets.literals import literal_secrets
from envgym.secrets.references import has_reference, variables_in
from envgym.secrets.values import Path, Secret, hide_literals, resolve, visited

if TYPE_CHECKING:
    from envgym.spec.environment import EnvSpec

log = get_logger(__name__)

AnyBlock = TypeVar("AnyBlock", bound=Block)


def with_values(block: AnyBlock, places: Mapping[Path, str] | None = None) -> AnyBlock:
    """Return a block in which every reference is replaced by its value.

    `repr`, `model_dump` and pickles of the result still show the references.

    Args:
        block: A checked block. One without references is returned itself.
        places: `file:line` of references, for messages.

    Raises:
        PrerequisiteError: If a variable is not set.
    """
    missing: list[str] = []

    def value(path: Path, text: str, before: object) -> str:
        if isinstance(text, Secret) or not has_reference(text):
            return text
        if (found := resolve(text)) is not None:
            return found
        names = [name for name in variables_in(text) if name not in os.environ]
        missing.append(_message(path, names, places or {}))
        return text

    found = _visited(block, value, ())
    if missing:
        raise PrerequisiteError("\n".join(missing))
    return found


def _message(path: Path, names: list[str], places: Mapping[Path, str]) -> str:
    where = places.get(path)
    key = ".".join(map(str, path))
    variables = " and ".join(names)
    is_not = "is not set" if len(names) == 1 else "are not set"
    return (
        f"{where + ': ' if where else ''}{key}: uses the environment variable {variables}, "
        f"which {is_not}. Set it first: export {names[0]}=..."
    )


def _visited(value: Any, visit: Any, path: Path) -> Any:
    if isinstance(value, Block):
        changed = {}
        for name, field in type(value).model_fields.items():
            old = value.__dict__[name]
            new = _visited(old, visit, (*path, field.alias or name))
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        items = {key: _visited(each, visit, (*path, key)) for key, each in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        found = [_visited(each, visit, (*path, index)) for index, each in enumerate(value)]
        same = all(new is old for new, old in zip(found, value, strict=True))
        return value if same else type(value)(found)
    return visited(value, visit, path)


def reference_places(data: Mapping[str, Any], where: Mapping[Path, str]) -> dict[Path, str]:
    """Return `file:line` of each string of raw data that has a reference, by its keys."""
    return {path: _place(path, where) for path, text, _ in _strings(data) if has_reference(text)}


def refill(data: Mapping[str, Any], source: Mapping[str, Any], where: Mapping[Path, str]) -> Any:
    """Return settings of a run in which the placeholders of literal secrets are replaced.

    Args:
        data: Settings of a run, which have placeholders.
        source: Raw data of the environment's YAML, which has the secrets.
        where: `file:line` of the settings.

    Raises:
        SpecError: If the YAML no longer has the secret of a placeholder.
    """

    def value(path: Path, text: str, before: object) -> str:
        if HIDDEN not in text:
            return text
        found = _at(source, path)
        secret = hide_literals(path, found, before) if isinstance(found, str) else None
        if secret is None or secret.shown != text:
            raise SpecError(
                f"{_place(path, where)}: {'.'.join(map(str, path))}: a run keeps no secrets, and "
                "the environment's YAML no longer has this one. Restore it there; new runs can use "
                "env:NAME"
            )
        return found

    return visited(data, value)


def _at(data: Any, path: Path) -> Any:
    """Return the value at a path of raw data, or None."""
    for step in path:
        try:
            data = data[step]
        except (LookupError, TypeError):
            return None
    return data


def warn_of_literals(data: Mapping[str, Any], where: Mapping[Path, str]) -> None:
    """Log a warning, once per process, for each literal secret of raw data."""
    for path, text, before in _strings(data):
        if not has_reference(text) and literal_secrets(path, text, before):
            _warn(f"{_place(path, where)}: {'.'.join(map(str, path))}")


@functools.cache
def _warn(place: str) -> None:
    log.warning(
        "%s: a secret stands here. It is left out of records and run folders. "
        "Better keep it in an environment variable and write env:NAME",
        place,
    )


def _strings(data: Any) -> Iterator[tuple[Path, str, object]]:
    found = []

    def note(path: Path, text: str, before: object) -> str:
        found.append((path, text, before))
        return text

    visited(data, note)
    yield from found


def _place(path: Path, where: Mapping[Path, str]) -> str:
    return next(
        (where[path[:size]] for size in range(len(path), -1, -1) if path[:size] in where), ""
    )


def credential_lines(spec: EnvSpec) -> list[str]:
    """Return one line per variable of a YAML, with the settings that use it.

    Commands print them before the variables are used: the author of a YAML chooses the hosts.
    """
    uses: dict[str, list[str]] = {}
    for path, text in _references(spec):
        for name in variables_in(text):
            uses.setdefault(name, []).append(_use(spec, path))
    return [f"uses ${name}: {', '.join(dict.fromkeys(found))}" for name, found in uses.items()]


def _references(spec: EnvSpec) -> list[tuple[Path, str]]:
    found = []

    def note(path: Path, text: str, before: object) -> str:
        shown = text.shown if isinstance(text, Secret) else text
        if has_reference(shown):
            found.append((path, shown))
        return text

    _visited(spec, note, ())
    return found


def _use(spec: EnvSpec, path: Path) -> str:
    """Return the key of a reference, and the address in the same block that gets its value."""
    key = ".".join(map(str, path))
    block: Any = spec.model_dump(by_alias=True)
    address = ""
    for step in path:
        if isinstance(block, Mapping):
            address = next((block[n] for n in ("base_url", "url") if block.get(n)), address)
        block = block[step]
    return f"{key} (sent to {address})" if address and path[-1] not in ("url", "base_url") else key
