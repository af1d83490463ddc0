"""How near JSON or a table that a model wrote is to the truth, from 0.0 to 1.0.

What the model wrote is text and may be anything: whatever cannot be read scores 0.0. A truth or a schema that makes no sense is
an error of whoever wrote it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from envgym.errors import PrerequisiteError, UsageError

MOST_CHARACTERS = 100_000
"""Of JSON or CSV that is read."""
MOST_ROWS = 500
"""Of a table that is compared."""

# --- JSON ---


def json_similarity(text: str, truth: Any, schema: Mapping[str, Any] | None = None) -> float:
    """How much of a JSON value is right: 1 for an equal one, 0 for text that is no JSON or breaks the schema.

    Equal scalars give 1, others 0. An object gives the mean over all keys of either side, a list the mean over all positions of
    the longer one, so what is missing and what is too much cost alike. Numbers compare by value, texts to the letter, and true
    is not 1. A definition of our own, so that it can be worked out by hand: `deepdiff.get_deep_distance` counts the operations
    of a diff, so its numbers hang on how long the values are and on its version.

    Args:
        text: JSON (RFC 8259: no NaN, no comments) of at most 100,000 characters.
        truth: what `json.loads` would give.
        schema: JSON Schema that both must meet; needs the package jsonschema. References to other documents are not followed.
    Raises: UsageError for a truth that is no JSON or breaks the schema, and for a schema that is none.
    """
    truth = _as_json(truth)
    is_valid = (
        (lambda value: True) if schema is None else _validator(json.dumps(schema, sort_keys=True))
    )
    if not is_valid(truth):
        raise UsageError(
            f"the true JSON does not meet the schema: {_short(truth)}. Correct one of the two."
        )
    try:
        value = _read_json(text)
        return _alike(value, truth) if is_valid(value) else 0.0
    except UsageError:  # a ValueError too, but the schema's
        raise
    except (ValueError, RecursionError):
        return 0.0


def _as_json(truth: Any) -> Any:
    """The truth as it comes back from JSON: tuples are lists, keys are strings. Raises UsageError."""
    try:
        return json.loads(json.dumps(truth, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"the truth is no JSON ({error}): {_short(truth)}") from error


def _read_json(text: str) -> Any:
    """Raises ValueError, RecursionError."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(digits: str) -> float:
    return value if math.isfinite(value := float(digits)) else _refuse(digits)


def _alike(one: Any, other: Any) -> float:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return (
            sum(_alike(one[key], other[key]) for key in one.keys() & other.keys()) / len(keys)
            if keys
            else 1.0
        )
    if isinstance(one, list) and isinstance(other, list):
        longest = max(len(one), len(other))
        return sum(map(_alike, one, other)) / longest if longest else 1.0
    if _is_number(one) and _is_number(other):
        return float(_same_number(one, other))
    return float(type(one) is type(other) and one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_number(one: Any, other: Any) -> bool:
    try:
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    except OverflowError:  # an int beyond any float
        return one == other


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Callable[[Any], bool]:
    """Raises UsageError, PrerequisiteError."""
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
        raise UsageError(f"the JSON schema is none: {error.json_path}: {error.message}") from error
    checker = kind(
        plain, registry=REGISTRY
    )  # a registry of its own, so that no reference is fetched

    def is_valid(value: Any) -> bool:
        try:
            return checker.is_valid(value)
        except Unresolvable as error:
            raise UsageError(
                f"the JSON schema refers to {error.ref}, which does not stand in it"
            ) from error

    return is_valid


# --- tables ---

Cells = list[dict[Any, Any]]
"""Column -> value, for each row."""


def table_similarity(
    csv_text: str, truth_rows: Sequence[Mapping[str, Any]], *, ordered: bool = True
) -> float:
    """F1 of the cells of a table, its header counted as a row of cells.

    A cell is right when the true table has its value in the same column and row. Numbers compare by value, texts without regard
    to case and white space; the order of columns is free.

    Args:
        csv_text: comma-separated, header first, at most 100,000 characters and 500 rows; else 0.
        truth_rows: column -> value, the same columns in each row, at least one row.
        ordered: whether rows stand in order; else each is compared with the row it fits best, the best fits first.
    Raises: UsageError for a truth without rows, with ragged rows, or with a value that a table cannot hold.
    """
    truth = _true_rows(truth_rows)
    try:
        rows = _read_csv(csv_text)
    except (ValueError, csv.Error):
        return 0.0
    pairs = zip(rows, truth, strict=False) if ordered else _best_pairs(rows, truth)
    right = len(rows[0].keys() & truth[0].keys()) + sum(_hits(row, other) for row, other in pairs)
    return 2 * right / (_cells(rows) + _cells(truth))


def _true_rows(rows: Sequence[Mapping[str, Any]]) -> Cells:
    columns = set(map(_plain, rows[0])) if rows else set()
    if (
        not columns
        or any(row.keys() != rows[0].keys() for row in rows)
        or len(columns) < len(rows[0])
        or len(rows) > MOST_ROWS
    ):
        raise UsageError(
            f"the true table needs 1 to {MOST_ROWS} rows with the same, different columns, got {_short(rows)}"
        )
    for row in rows:
        for column, value in row.items():
            if not isinstance(value, str | int | float | bool | None) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise UsageError(
                    f"the true table has {value!r} in column '{column}'; a cell is a text or a finite number"
                )
    return [{_plain(column): _plain(value) for column, value in row.items()} for row in rows]


def _read_csv(text: str) -> Cells:
    """Raises ValueError, csv.Error for what is no table: no row below the header, a column twice, a row too long or short."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    if not 2 <= len(lines) <= MOST_ROWS + 1 or len(
        set(header := [_plain(name) for name in lines[0]])
    ) < len(header):
        raise ValueError("no table")
    return [dict(zip(header, map(_plain, line), strict=True)) for line in lines[1:]]


def _plain(value: Any) -> float | str:
    """A cell as it is compared: 7, 7.0 and "7.00" are one number, "  North sea" and "north Sea" one text."""
    text = " ".join(str("" if value is None else value).split()).casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _best_pairs(rows: Cells, truth: Cells) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row with at most one true row, greedily by the number of equal cells."""
    fits = sorted(
        ((-_hits(row, other), i, j) for i, row in enumerate(rows) for j, other in enumerate(truth))
    )
    used_rows = set()
    used_truth = set()
    for _, i, j in fits:
        if i not in used_rows and j not in used_truth:
            used_rows.add(i)
            used_truth.add(j)
            yield rows[i], truth[j]


def _hits(row: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(column in other and other[column] == value for column, value in row.items())


def _cells(rows: Cells) -> int:
    return len(rows[0]) * (len(rows) + 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]} ..."
