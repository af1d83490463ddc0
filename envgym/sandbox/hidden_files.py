"""Which files of an environment its boxes must not hold: those of the tasks and rewards, and what only these import.

A tool that reads files, or code that a model wrote, would else find the hidden truth in the box. Followed are plain imports
of files that lie beside the importing one (`import phrases`, `from phrases import ...`).
Left out: data that tasks read at run time, and what a Dockerfile of the user's own copies into the image.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def hidden_files(root: Path, *, secret: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Paths relative to `root` of what no box gets.

    Args:
        secret: references such as `crm/tasks.py` or `crm/rewards.py:brief`; those to installed packages name no file here.
        needed: references that are loaded into the box; what these import stays.
    """
    named = _files(root, secret)
    kept = _with_imports(_files(root, needed))
    own = {file for file in _with_imports(named) if file not in kept} | named
    return tuple(
        sorted(file.relative_to(root).as_posix() for file in own if file.is_relative_to(root))
    )


def _files(root: Path, references: Iterable[str]) -> set[Path]:
    return {
        file for reference in references if (file := root / reference.partition(":")[0]).is_file()
    }


def _with_imports(files: set[Path]) -> set[Path]:
    """The files, and all that they import from their own folders, at any depth."""
    found = set(files)
    fresh = set(files)
    while fresh:
        fresh = {
            imported for file in fresh if file.suffix == ".py" for imported in _imported_by(file)
        } - found
        found |= fresh
    return found


def _imported_by(file: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # told, with its place, by who loads the file
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = file.parent.joinpath(*name.split("."))
            yield from (
                path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()
            )
