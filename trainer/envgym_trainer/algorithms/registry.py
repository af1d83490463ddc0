"""Load a loss or an advantage by the name that the YAML gives it."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from envgym.errors import UsageError
from envgym.modules import load_object
from envgym_trainer.algorithms.advantages import Advantage
from envgym_trainer.algorithms.losses import Loss


@functools.cache
def find_loss(name: str) -> Loss[...]:
    """Return the loss of this name.

    Args:
        name: Name of a file in `losses/`, `file.py:name` or `package.module:name`.

    Raises:
        SpecError: If the file or the module does not exist, or fails on import.
        UsageError: If the object is not marked as a loss.
    """
    found = _load("losses", name)
    if not isinstance(found, Loss):
        raise UsageError(f"train.algorithm.loss.name: '{name}' is no loss. Put @loss(...) above it")
    return found


@functools.cache
def find_advantage(name: str) -> Advantage[...]:
    """Return the advantage of this name.

    Args:
        name: Name of a file in `advantages/`, `file.py:name` or `package.module:name`.

    Raises:
        SpecError: If the file or the module does not exist, or fails on import.
        UsageError: If the object is not marked as an advantage.
    """
    found = _load("advantages", name)
    if not isinstance(found, Advantage):
        raise UsageError(
            f"train.algorithm.advantage.name: '{name}' is no advantage. "
            "Put @advantage(...) above it"
        )
    return found


def _load(folder: str, name: str) -> Any:
    if ":" in name:
        return load_object(name, Path())
    return getattr(importlib.import_module(f"envgym_trainer.algorithms.{folder}.{name}"), name)
