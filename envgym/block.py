"""Base class of every block of an environment's YAML."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """Part of the YAML: unknown keys are rejected and values are frozen.

    A docstring under a field becomes its description in the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )
