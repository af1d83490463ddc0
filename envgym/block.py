"""The base of every block of an environment's YAML."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A part of the YAML: unknown keys are refused, values are frozen, and a docstring under a field describes it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )
