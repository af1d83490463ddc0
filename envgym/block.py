"""Base class of every block of an environment's YAML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from envgym.secrets.values import Mistake, Secret, take_apart, visited


class ShortForm(NamedTuple):
    """A plain string in place of a block, such as `model: tiny`."""

    key: str
    """Key of the block that gets the string."""
    keeps_rest: bool = False
    """Whether an override with the short form keeps the other keys of the block."""


class Block(BaseModel):
    """Part of the YAML: unknown keys are rejected and values are frozen.

    Numbers must be finite, at any depth. Strings may refer to environment variables. A block holds
    the value if the variable is set, otherwise the reference, which `envgym.spec.late_values`
    replaces when the value is used. `model_dump`, `repr` and pickles contain references and
    placeholders, never the value. A docstring under a field becomes its description in the JSON
    schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
    short_forms: ClassVar[Mapping[str, ShortForm]] = {}
    """Keys of this block that accept a plain string."""

    @classmethod
    def outdated_keys(cls, data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield keys that were renamed or removed, each with a message that starts with a verb."""
        yield from ()

    @classmethod
    def with_absolute_paths(cls, data: Mapping[str, Any], root: Path) -> Mapping[str, Any]:
        """Return the block with the files that it names relative to `root` as absolute paths."""
        return data

    @classmethod
    def write_out_short_forms(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the block with its short forms replaced by blocks."""
        return {
            key: {cls.short_forms[key].key: value}
            if key in cls.short_forms and isinstance(value, str)
            else value
            for key, value in data.items()
        }

    @model_validator(mode="wrap")
    @classmethod
    def _checked_values(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Replace references by their values, hide secrets, and refuse infinite numbers."""
        try:
            taken, has_secrets = take_apart(data)
        except Mistake as mistake:
            error = PydanticCustomError("reference", "{text}", {"text": str(mistake)})
            raise _errors(cls, [InitErrorDetails(type=error, loc=mistake.path, input="")]) from None
        block = handler(taken)
        if has_secrets:
            _put_back(block, taken)
        infinite = [
            InitErrorDetails(type="finite_number", loc=path, input=value)
            for path, value in block._infinite_values()
        ]
        if infinite:
            raise _errors(cls, infinite)
        return block

    def _infinite_values(self) -> Iterator[tuple[tuple[str | int, ...], float]]:
        """Yield path and value of each infinite number whose type the schema does not know."""
        for name, field in type(self).model_fields.items():
            yield from _infinite(self.__dict__.get(name), (field.alias or name,))

    @model_serializer(mode="wrap")
    def _without_values(self, handler: SerializerFunctionWrapHandler) -> Any:
        shown = {name: visited(value, _shown) for name, value in self.__dict__.items()}
        if all(shown[name] is value for name, value in self.__dict__.items()):
            return handler(self)
        return handler(self.model_copy(update=shown))


def _errors(cls: type[Block], errors: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data(cls.__name__, errors)


def _infinite(
    value: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _infinite(each, (*path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _infinite(each, (*path, index))


def _shown(path: Any, text: str, before: object) -> str:
    return text.shown if isinstance(text, Secret) else text


def _put_back(value: Any, taken: Any) -> Any:
    """Return a checked value with its secrets, which the schema has turned into plain strings.

    Args:
        value: Value that the schema made of `taken`. Blocks are new and are changed in place.
        taken: Result of `take_apart`.
    """
    if isinstance(value, Block):
        fields: dict[str, Any] = vars(value)
        for name, field in type(value).model_fields.items():
            if isinstance(taken, Secret) and fields[name] == taken:  # a short form of the block
                fields[name] = taken
            elif isinstance(taken, Mapping) and (field.alias in taken or name in taken):
                key = field.alias if field.alias in taken else name
                fields[name] = _put_back(fields[name], taken[key])
    elif isinstance(taken, Secret):
        return taken if isinstance(value, str) else value
    elif isinstance(value, Mapping) and isinstance(taken, Mapping):
        return {
            key: _put_back(each, taken[key]) if key in taken else each
            for key, each in value.items()
        }
    elif isinstance(taken, list | tuple) and type(value) in (list, tuple):
        same = len(value) == len(taken)
        items = map(_put_back, value, taken)
        return (list(items) if isinstance(value, list) else tuple(items)) if same else value
    return value
