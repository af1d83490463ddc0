"""Find the files that boxes must not contain: tasks, rewards and modules that only they import.

Otherwise a tool that reads files, or code written by a model, could find the true answers. Only
imports of files beside the importing file are followed (`import phrases`, `from phrases import
...`). Not covered: data that tasks read at run time, and files copied by a user's Dockerfile.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def hidden_files(root: Path, *, secret: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Return the paths, relative to `root`, of the files to hide.

    Args:
        secret: References such as `crm/tasks.py` or `crm/rewards.py:brief`. References to installed
            packages are ignored.
        needed: References loaded into the box. Files that they import are not hidden.
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
    """Return the files and, recursively, the files that they import from the same folder."""
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
        return  # The loader of the file reports the syntax error.
    for node in ast.walk(tree):
        folder = file.parent
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            names = [*module, *(".".join([*module, alias.name]) for alias in node.names)]
            folder = file.parents[min(max(node.level, 1), len(file.parents)) - 1]
        for name in names:
            place = folder.joinpath(*name.split("."))
            yield from (
                path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()
            )
