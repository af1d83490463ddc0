"""Equality of values: cells of tables, keys, JSON, choices and expected values.

Types never mix: text, bytes, booleans, null and numbers are different kinds. Numbers compare by
value: integers exactly at any size, and floats with a tolerance for rounding that never applies to
two whole numbers. NaN equals NaN, and an infinity equals only itself. Text compares exactly unless
the caller asks for folded text. `docs/explanation/equality.md` lists the rules with examples.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from numbers import Number
from typing import Any

FLOAT_TOLERANCE = 1e-13
"""Default tolerance between numbers of which one is a float: relative to the larger value, against
zero absolute. It covers the rounding of some hundred operations."""
INTEGER_TOLERANCE = 1e-3
"""Largest difference between an integer and a float that are equal by the default tolerance."""
WHOLE_FLOAT = 2.0**53
"""Limit below which a float without a fraction is an exact integer."""


def equal(
    one: Any, other: Any, *, tolerance: float = FLOAT_TOLERANCE, folded: bool = False
) -> bool:
    """Return whether two values are equal. The relation is reflexive and symmetric.

    Args:
        one: Scalar, or a list, tuple or mapping of values. A tuple equals a list.
        other: Value to compare with.
        tolerance: Relative tolerance between numbers of which at least one is a float. 0 compares
            exactly.
        folded: Compare text without regard to case, white space and Unicode normal form.
    """
    if _is_number(one) and _is_number(other):
        return _equal_numbers(one, other, tolerance)
    if isinstance(one, str) and isinstance(other, str) and folded:
        return fold(one) == fold(other)
    rules: dict[str, Any] = {"tolerance": tolerance, "folded": folded}
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(
            equal(a, b, **rules) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            equal(one[key], other[key], **rules) for key in one
        )
    return identity(one) == identity(other)


def identity(value: Any) -> Hashable:
    """Return a hashable form. Two forms are equal if the values are equal without tolerance."""
    if value is None or isinstance(value, bool):
        return (type(value).__name__, value)
    if _is_number(value):
        return ("number", "nan" if value != value else value)
    if isinstance(value, str):
        return ("text", str(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return ("bytes", bytes(value))
    if isinstance(value, list | tuple):
        return ("list", tuple(map(identity, value)))
    if isinstance(value, Mapping):
        return ("mapping", frozenset((identity(key), identity(value[key])) for key in value))
    # The object keeps its own equality, such as that of dates.
    return (type(value), value if isinstance(value, Hashable) else repr(value))


def is_among(value: Any, choices: Iterable[Any]) -> bool:
    """Return whether one of the choices is this value, without tolerance.

    An integer and a float are different types here: 2.0 is not among the choices 1, 2 and 3.
    """
    return any(
        identity(value) == identity(choice)
        and isinstance(value, float) == isinstance(choice, float)
        for choice in choices
    )


def fold(text: str) -> str:
    """Return text without differences of case, white space and Unicode normal form."""
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool | complex)


def _equal_numbers(one: Any, other: Any, tolerance: float) -> bool:
    if one == other or (one != one and other != other):
        return True
    if not isinstance(one, float) and not isinstance(other, float):
        return False
    if _are_whole(one, other):
        return False
    has_integer = not isinstance(one, float) or not isinstance(other, float)
    most = INTEGER_TOLERANCE if has_integer and tolerance == FLOAT_TOLERANCE else math.inf
    try:
        one, other = float(one), float(other)
    except OverflowError:  # an integer beyond any float
        return False
    if not math.isfinite(one) or not math.isfinite(other):
        return False
    if not one or not other:
        return abs(one - other) <= tolerance
    return math.isclose(one, other, rel_tol=tolerance) and abs(one - other) <= most


def _are_whole(one: Any, other: Any) -> bool:
    """Return whether both are exact whole numbers. A huge float is exact only beside an integer."""
    floats = [value for value in (one, other) if isinstance(value, float)]
    if not all(value.is_integer() for value in floats):
        return False
    return len(floats) < 2 or max(map(abs, floats)) < WHOLE_FLOAT
