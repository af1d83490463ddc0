"""Similarity of JSON or a table to the truth, from 0.0 to 1.0.

The model's text may be anything: unreadable text scores 0.0. An invalid truth or schema raises.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from envgym.errors import PrerequisiteError, UsageError
from envgym.values import FLOAT_TOLERANCE, equal, fold

MOST_CHARACTERS = 100_000
"""Maximum length of JSON or CSV text."""
MOST_ROWS = 500
"""Maximum number of rows of a table."""
MOST_DIGITS = 400
"""Maximum length of a number in a cell. A longer cell is text."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")

# --- JSON ---


def json_similarity(
    text: str,
    truth: Any,
    schema: Mapping[str, Any] | None = None,
    *,
    tolerance: float = FLOAT_TOLERANCE,
) -> float:
    """Return the fraction of a JSON value that is right.

    Equal scalars score 1, others 0. An object scores the mean over the keys of both sides, a list
    the mean over the positions of the longer one, so missing and additional items cost the same.
    Numbers compare by value (integers exactly), texts exactly, and true differs from 1. This
    definition can be computed by hand; `deepdiff.get_deep_distance` depends on its version and on
    the lengths of the values.

    Args:
        text: JSON (RFC 8259: no NaN, no comments) of at most 100,000 characters.
        truth: True value, as `json.loads` returns it.
        schema: JSON Schema that both values must satisfy; requires the package jsonschema.
            References to other documents are not resolved.
        tolerance: Relative tolerance of numbers that are not whole.

    Returns:
        Fraction from 0.0 to 1.0; 0.0 if the text is not JSON or violates the schema.

    Raises:
        UsageError: If the truth is not JSON or violates the schema, or if the schema is invalid.
        PrerequisiteError: If a schema is given and jsonschema is not installed.
    """
    truth = _as_json(truth)
    is_valid = (
        (lambda value: True) if schema is None else _validator(json.dumps(schema, sort_keys=True))
    )
    if not is_valid(truth):
        raise UsageError(
            f"the true JSON violates the schema: {_short(truth)}. Correct one of the two."
        )
    try:
        value = _read_json(text)
        return _alike(value, truth, tolerance) if is_valid(value) else 0.0
    except UsageError:  # a ValueError too, but raised for the schema
        raise
    except (ValueError, RecursionError):
        return 0.0


def _as_json(truth: Any) -> Any:
    """Return the truth after a round trip through JSON: tuples become lists, keys become strings.

    Raises:
        UsageError: If the truth cannot be represented.
    """
    try:
        return json.loads(json.dumps(truth, allow_nan=False), parse_float=_finite)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the truth is not JSON ({error}): {_short(truth)}") from error


def _read_json(text: str) -> Any:
    """Parse JSON, or raise ValueError or RecursionError."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(digits: str) -> float:
    if _WHOLE.fullmatch(digits):
        return int(digits.partition(".")[0])  # a float would lose digits of a long number
    return value if math.isfinite(value := float(digits)) else _refuse(digits)


def _alike(one: Any, other: Any, tolerance: float) -> float:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        shared = one.keys() & other.keys()
        right = sum(_alike(one[key], other[key], tolerance) for key in shared)
        return right / len(keys) if keys else 1.0
    if isinstance(one, list) and isinstance(other, list):
        longest = max(len(one), len(other))
        right = sum(_alike(a, b, tolerance) for a, b in zip(one, other, strict=False))
        return right / longest if longest else 1.0
    return float(equal(one, other, tolerance=tolerance))


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Callable[[Any], bool]:
    """Return a function that validates values against a JSON Schema.

    Raises:
        UsageError: If the schema is invalid.
        PrerequisiteError: If jsonschema is not installed.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
        from jsonschema_specifications import REGISTRY
        from referencing.exceptions import Unresolvable
    except ImportError as error:
        raise PrerequisiteError(
            "checking a JSON schema needs jsonschema. Install it: pip install jsonschema"
        ) from error
    plain = json.loads(schema)
    kind: Any = validator_for(plain)
    try:
        kind.check_schema(plain)
    except SchemaError as error:
        raise UsageError(
            f"the JSON schema is invalid: {error.json_path}: {error.message}"
        ) from error
    # An explicit registry prevents jsonschema from fetching references.
    checker = kind(plain, registry=REGISTRY)

    def is_valid(value: Any) -> bool:
        try:
            return checker.is_valid(value)
        except Unresolvable as error:
            raise UsageError(
                f"the JSON schema refers to {error.ref}, which it does not define"
            ) from error

    return is_valid


# --- tables ---


@dataclass(frozen=True, slots=True)
class _Cell:
    """Cell of a CSV text."""

    text: str
    """Text without differences of case and white space."""
    number: int | float | None
    """Number that the text is, if it is one."""

    def is_right(self, truth: Any, tolerance: float) -> bool:
        """Compare by the type of the truth: 7.0 is the number 7, and not the text 7."""
        if isinstance(truth, str):
            return self.text == truth
        if self.number is None or self.number == truth:
            return self.number is not None
        return equal(self.number, truth, tolerance=tolerance)


Cells = list[dict[str, _Cell]]
"""Rows of a CSV text, column -> cell."""
Truth = list[dict[str, Any]]
"""Rows of the truth. Numbers are numbers, and all other values are texts."""


def table_similarity(
    csv_text: str,
    truth_rows: Sequence[Mapping[str, Any]],
    *,
    ordered: bool = True,
    tolerance: float = FLOAT_TOLERANCE,
) -> float:
    """Return the F1 of the cells of a table; the header counts as a row of cells.

    A cell is right if the true table has the same value in this column and row. The truth's type
    decides: a number compares by value, a text without regard to case and white space, so that
    `00501` and `1.10` as texts differ from 501 and 1.1. The order of columns is free.

    Args:
        csv_text: Comma-separated values with a header, at most 100,000 characters and 500 rows. Any
            other text scores 0.0.
        truth_rows: At least one row, column -> value, with the same columns in each row.
        ordered: Compare rows by position. False pairs rows greedily by the number of equal cells.
        tolerance: Relative tolerance of numbers that are not whole.

    Raises:
        UsageError: If the truth has no rows, rows of different columns, or a value that is neither
            a text nor a finite number.
    """
    truth = _true_rows(truth_rows)
    try:
        rows = _read_csv(csv_text)
    except (ValueError, csv.Error):
        return 0.0

    def hits(row: dict[str, _Cell], other: dict[str, Any]) -> int:
        return sum(
            column in other and cell.is_right(other[column], tolerance)
            for column, cell in row.items()
        )

    pairs = zip(rows, truth, strict=False) if ordered else _best_pairs(rows, truth, hits)
    right = len(rows[0].keys() & truth[0].keys()) + sum(hits(row, other) for row, other in pairs)
    return 2 * right / (_cells(rows) + _cells(truth))


def _true_rows(rows: Sequence[Mapping[str, Any]]) -> Truth:
    columns = {fold(str(column)) for column in rows[0]} if rows else set()
    if (
        not columns
        or any(row.keys() != rows[0].keys() for row in rows)
        or len(columns) < len(rows[0])
        or len(rows) > MOST_ROWS
    ):
        raise UsageError(
            f"the true table needs 1 to {MOST_ROWS} rows with the same set of distinct columns, "
            f"got {_short(rows)}"
        )
    for row in rows:
        for column, value in row.items():
            if not isinstance(value, str | int | float | bool | None) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise UsageError(
                    f"the true table has {value!r} in column '{column}'. "
                    f"A cell must be a text or a finite number"
                )
    return [{fold(str(column)): _true_cell(value) for column, value in row.items()} for row in rows]


def _true_cell(value: Any) -> Any:
    """Return a number as it is, and any other value as folded text: `true`, or empty for None."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return "" if value is None else fold(str(value))


def _read_csv(text: str) -> Cells:
    """Parse a table.

    Raises:
        ValueError: If there is no row below the header, a column repeats, or a row has another
            length.
        csv.Error: If the text is not CSV.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    if not 2 <= len(lines) <= MOST_ROWS + 1 or len(
        set(header := [fold(name) for name in lines[0]])
    ) < len(header):
        raise ValueError("no table")
    return [dict(zip(header, map(_cell, line), strict=True)) for line in lines[1:]]


def _cell(text: str) -> _Cell:
    text = fold(text)
    if len(text) > MOST_DIGITS or not _NUMBER.fullmatch(text):
        return _Cell(text, None)
    if _WHOLE.fullmatch(text):
        return _Cell(text, int(text.partition(".")[0]))
    number = float(text)
    return _Cell(text, number if math.isfinite(number) else None)


def _best_pairs(
    rows: Cells, truth: Truth, hits: Callable[[dict[str, _Cell], dict[str, Any]], int]
) -> Iterable[tuple[dict[str, _Cell], dict[str, Any]]]:
    """Pair each row with at most one true row, greedily by the number of equal cells."""
    fits = sorted(
        ((-hits(row, other), i, j) for i, row in enumerate(rows) for j, other in enumerate(truth))
    )
    used_rows = set()
    used_truth = set()
    for _, i, j in fits:
        if i not in used_rows and j not in used_truth:
            used_rows.add(i)
            used_truth.add(j)
            yield rows[i], truth[j]


def _cells(rows: Cells | Truth) -> int:
    return len(rows[0]) * (len(rows) + 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]} ..."
