"""Base class of every block of an environment's YAML."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """Part of the YAML. Unknown keys are rejected, values are frozen, and a docstring under a field
    becomes its description.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )
