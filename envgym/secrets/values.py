"""Values of a YAML that must not be written: a string that shows a reference instead of its value.

`take_apart` replaces references and literal secrets of raw data by `Secret`, so that the schema
checks the values. `Block` then stores what may be written in the checked model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from envgym.secrets import HIDDEN, hide
from envgym.secrets.literals import is_recognizable, literal_secrets
from envgym.secrets.references import filled, has_reference, variables_in

Path = tuple[str | int, ...]


class Mistake(ValueError):
    """Mistake in a string of raw data, with the path of the string."""

    def __init__(self, path: Path, problem: str):
        super().__init__(problem)
        self.path = path


class Secret(str):
    """String that is used as its value, but printed, copied into files and pickled as `shown`."""

    __slots__ = ("is_reference", "shown")
    shown: str
    is_reference: bool

    def __new__(cls, value: str, shown: str, *, is_reference: bool = True) -> Secret:
        secret = super().__new__(cls, value)
        secret.shown = shown
        secret.is_reference = is_reference
        return secret

    def __repr__(self) -> str:
        return repr(self.shown)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return _read_again, (self.shown,)


def _read_again(shown: str) -> str:
    """Return the value of an unpickled secret: of its variables, if they are set here too."""
    found = resolve(shown) if has_reference(shown) else None
    return shown if found is None else found


def resolve(text: str) -> Secret | None:
    """Return a string with the values of its variables, or None if one is not set.

    The values are hidden from now on. Raises ValueError if a name is invalid.
    """
    names = variables_in(text)
    if any(name not in os.environ for name in names):
        return None
    values = {name: os.environ[name] for name in names}
    for name, value in values.items():
        hide(value, name)
    return Secret(filled(text, values), text)


def hide_literals(path: Path, text: str, before: object = None) -> Secret | None:
    """Return a string with literal secrets as a `Secret`, which hides them, or None."""
    parts = literal_secrets(path, text, before)
    if not parts:
        return None
    shown = text
    for part in parts:
        if part != text or is_recognizable(path, text):
            hide(part)
        shown = shown.replace(part, HIDDEN)
    return Secret(text, shown, is_reference=False)


Visit = Callable[[Path, str, object], Any]
"""Function of path, string and preceding element that returns the string's replacement."""


def visited(data: Any, visit: Visit, path: Path = (), before: object = None) -> Any:
    """Return raw data with every string replaced. Unchanged containers are returned themselves."""
    if isinstance(data, str):
        return visit(path, data, before)
    if isinstance(data, Mapping):
        changed = {key: visited(value, visit, (*path, key)) for key, value in data.items()}
        return changed if any(changed[key] is not data[key] for key in changed) else data
    if type(data) in (list, tuple):
        pairs = zip([None, *data], data, strict=False)
        items = [visited(each, visit, (*path, n), last) for n, (last, each) in enumerate(pairs)]
        same = all(new is old for new, old in zip(items, data, strict=True))
        return data if same else type(data)(items)
    return data


def take_apart(data: Any) -> tuple[Any, bool]:
    """Return raw data with references and literal secrets as `Secret`, and whether it has any.

    A reference whose variable is not set stays as it is. Raises Mistake.
    """
    found: list[str] = []

    def visit(path: Path, text: str, before: object) -> str:
        taken = _taken(path, text, before)
        found.extend([taken] if isinstance(taken, Secret) else [])
        return taken

    return visited(data, visit), bool(found)


def _taken(path: Path, text: str, before: object) -> str:
    if isinstance(text, Secret):
        return text
    literal = hide_literals(path, text, before)
    if not has_reference(text):
        return literal or text
    if literal:
        raise Mistake(path, "holds a secret next to a reference; use a variable for the secret too")
    try:
        return resolve(text) or text
    except ValueError as error:
        raise Mistake(path, str(error)) from None
