"""References to environment variables in the strings of a YAML.

env:NAME            the whole string is the value of the variable NAME
...${env:NAME}...   the value stands inside of a longer string
env::TEXT           the text `env:TEXT` itself; inside of a string `${env::NAME}`
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\A(?P<whole>env:)(?P<text>\S*)\Z|\$\{env:(?P<inside>[^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def variables_in(text: str) -> list[str]:
    """Return the names of the variables that a string refers to.

    Raises:
        ValueError: If a reference has no valid name.
    """
    names = []
    for match in _REFERENCE.finditer(text):
        name = match["text"] if match["whole"] else match["inside"]
        if name.startswith(":"):
            continue
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"'{match[0]}' names no environment variable: a name has letters, digits and _. "
                f"For the text itself write {match[0].replace('env:', 'env::', 1)}"
            )
        names.append(name)
    return names


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Return a string with its references replaced. Each variable must be in `variables`."""

    def value(match: re.Match[str]) -> str:
        name = match["text"] if match["whole"] else match["inside"]
        if not name.startswith(":"):
            return variables[name]
        return match[0].replace("env::", "env:", 1)

    return _REFERENCE.sub(value, text)


def has_reference(text: str) -> bool:
    """Return whether a string has a reference, or the escaped text of one."""
    return _REFERENCE.search(text) is not None
