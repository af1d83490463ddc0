"""Leaves of the schema of the `train:` block."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from envgym_trainer.config.algorithm import AdvantageConfig, LossConfig
from envgym_trainer.config.options import Kind, options_schema

HAS_OPTIONS: dict[type[BaseModel], Kind] = {LossConfig: "loss", AdvantageConfig: "advantage"}


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted path of each field below `model` that is not a block."""
    found = []
    for name, field in model.model_fields.items():
        blocks = [block for block in _branches(field.annotation) if _is_block(block)]
        for path in (path for block in blocks for path in leaves(block, f"{prefix}{name}.")):
            found += [] if path in found else [path]
        found += [] if blocks else [f"{prefix}{name}"]
    # Their options are those of the functions in the folder.
    options = options_schema(HAS_OPTIONS[model]) if model in HAS_OPTIONS else {}
    return found + [f"{prefix}{option}" for option in options]


def _branches(annotation: Any) -> tuple[Any, ...]:
    """Return the branches of a union without their tags."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    branches = get_args(annotation) if is_union else (annotation,)
    return tuple(get_args(b)[0] if get_origin(b) is Annotated else b for b in branches)


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
