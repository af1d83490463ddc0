"""Read the JSON body of a request into a checked object; every mistake is an `ApiError`.

Fields are strict: a number is never read from a string. Fields of OpenAI's or vLLM's API that this
server does not implement are accepted with the value that has no effect, and refused with others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from envgym.errors import did_you_mean
from envgym.text import clean_value
from envgym_trainer.serving.api_errors import ApiError, invalid, unsupported

Path = tuple[str | int, ...]


class Body(BaseModel):
    """Fields of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


def read_json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a request's body. Lone surrogates become visible escapes.

    Raises:
        ApiError: If it is no UTF-8, no JSON, or no object.
    """
    try:
        found = read_json_text(data.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError too
        raise invalid(f"the body is not valid JSON: {error}.", None, "invalid_json") from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object.", None, "invalid_json")
    return found


def read_json_text(text: str) -> Any:
    """Return the value of strict JSON. Lone surrogates become visible escapes.

    Raises:
        ValueError: If it is no JSON, or nested too deeply. NaN and Infinity are no JSON.
    """
    try:
        return clean_value(json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_body(kind: type[B], plain: Mapping[str, Any], neutral: Mapping[str, tuple]) -> B:
    """Return the checked fields of a request. Fields that are null are taken as absent.

    Args:
        kind: Class with the fields that are implemented.
        plain: JSON object of the request.
        neutral: Fields that are not implemented, with the values that have no effect. An empty
            tuple means any value.

    Raises:
        ApiError: If a field is unknown, unsupported or has a wrong value.
    """
    given = {name: value for name, value in plain.items() if value is not None}
    for name in [*given]:
        if name in kind.model_fields:
            continue
        if name not in neutral:
            short = name[:100]
            hint = did_you_mean(short, [*kind.model_fields, *neutral]) or "."
            raise invalid(f"unknown field '{short}'{hint}", short, "unknown_parameter")
        _check_neutral(name, given.pop(name), neutral[name])
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = param_of(first["loc"])
        if first["type"] == "missing":
            raise invalid(f"'{param}' is missing.", param, "missing_required_parameter") from None
        raise invalid(f"'{param}': {first['msg']}.", param) from None


def param_of(path: Path) -> str:
    """Return the path of a field as OpenAI writes it, such as `messages[0].content`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def _check_neutral(name: str, value: Any, neutral: tuple) -> None:
    if not neutral or any(type(value) is type(each) and value == each for each in neutral):
        return
    if isinstance(value, int) and not isinstance(value, bool) and value in neutral:
        return  # 1 for 1.0
    allowed = " or ".join(json.dumps(each) for each in neutral)
    raise unsupported(name, f"this server supports only {allowed}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def missing(param: str) -> ApiError:
    """Return the error of a required field that is absent."""
    return invalid(f"'{param}' is missing.", param, "missing_required_parameter")
