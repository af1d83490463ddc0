"""Load Python files and objects that a YAML names: `file.py:name` and `package.module:name`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from envgym.errors import SpecError, did_you_mean
from envgym.sandbox.agent.modules import import_file


def load_object(reference: str, root: Path) -> Any:
    """Return the object that a reference names.

    Args:
        reference: `file.py:name` or `package.module:name`.
        root: Folder to which the path of a file is relative.

    Raises:
        SpecError: If the reference is malformed, or names nothing that exists.
    """
    module, name = load_module(reference, root)
    return getattr(module, name)


def load_module(reference: str, root: Path) -> tuple[ModuleType, str]:
    """Return the module of a reference and the name in it. Arguments as in `load_object`."""
    source, colon, name = reference.rpartition(":")
    if not colon:
        raise SpecError(f"'{reference}' must look like file.py:name or package.module:name")
    module = load_file(root / source) if source.endswith(".py") else _import(source, reference)
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise SpecError(f"'{reference}': no '{name}' in {source}{did_you_mean(name, public)}")
    return module, name


def load_file(path: Path) -> ModuleType:
    """Return the module in a Python file, executed once a process.

    The file may import its siblings by their plain names; see `envgym.sandbox.agent.modules`.

    Raises:
        SpecError: If there is no such file, or it fails on import.
    """
    path = path.resolve()
    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    try:
        return import_file(path)
    except Exception as error:
        raise SpecError(f"{path}: fails on import: {type(error).__name__}: {error}") from error


def _import(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SpecError(f"'{reference}': module '{name}' cannot be imported: {error}") from error
