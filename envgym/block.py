"""Base class of every block of an environment's YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict


class ShortForm(NamedTuple):
    """A plain string in place of a block, such as `model: tiny`."""

    key: str
    """Key of the block that gets the string."""
    keeps_rest: bool = False
    """Whether an override with the short form keeps the other keys of the block."""


class Block(BaseModel):
    """Part of the YAML: unknown keys are rejected and values are frozen.

    A docstring under a field becomes its description in the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
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
