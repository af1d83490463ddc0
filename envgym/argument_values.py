"""Types and sizes of argument values that a JSON schema and a tool can hold."""

from __future__ import annotations

from typing import Any

INTEGER_BITS = 64
"""Size of an integer argument, sign included. Databases and most code in C hold no larger one."""


def is_same(value: Any, choice: Any) -> bool:
    """Compare by type and value: neither true nor 1.0 is the choice 1, but 1 is the choice 1.0."""
    if type(value) is not type(choice):
        return type(value) is int and type(choice) is float and value == choice
    if isinstance(value, list):
        return len(value) == len(choice) and all(map(is_same, value, choice))
    if isinstance(value, dict):
        return value.keys() == choice.keys() and all(
            is_same(value[key], choice[key]) for key in value
        )
    return value == choice


def has_large_integer(value: Any) -> bool:
    """Return whether a value is or contains an integer beyond 64 bits."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
        # The range is not symmetric: -2**63 fits, and so does its complement.
        elif isinstance(each, int) and max(each, ~each).bit_length() >= INTEGER_BITS:
            return True
    return False


def has_type(value: Any, kind: Any) -> bool:
    """Check a JSON type strictly: true is not an integer, 5.0 is not an integer, 5 is a number."""
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    wanted = {
        "string": str,
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }.get(kind)
    return wanted is None or isinstance(value, wanted)
