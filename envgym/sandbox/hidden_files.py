"""Find the files that boxes must not contain, and the files that Python files import.

Boxes must not contain tasks, rewards and modules that only they import. Otherwise a tool that reads
files, or code written by a model, could find the true answers. Only imports of files beside the
importing file, or below the environment's folder, are followed (`import phrases`, `from phrases
import ...`). Not covered: files copied by a user's Dockerfile.
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
    kept = with_imports(_files(root, needed), root)
    own = {file for file in with_imports(named, root) if file not in kept} | named
    return tuple(
        sorted(file.relative_to(root).as_posix() for file in own if file.is_relative_to(root))
    )


def _files(root: Path, references: Iterable[str]) -> set[Path]:
    return {
        file for reference in references if (file := root / reference.partition(":")[0]).is_file()
    }


def with_imports(files: set[Path], root: Path) -> set[Path]:
    """Return the files and, recursively, the files that they import.

    Args:
        root: Folder of the environment. Imports are searched beside the file and here.
    """
    found = set(files)
    fresh = set(files)
    while fresh:
        fresh = {
            imported
            for file in fresh
            if file.suffix == ".py"
            for imported in _imported_by(file, root)
        } - found
        found |= fresh
    return found


def _imported_by(file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # The loader of the file reports the syntax error.
    for node in ast.walk(tree):
        folders = [file.parent, root]
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            names = [*module, *(".".join([*module, alias.name]) for alias in node.names)]
            if node.level:
                folders = [file.parents[min(node.level, len(file.parents)) - 1]]
                # `from . import x` imports the package of the file too.
                yield from _existing(folders[0] / "__init__.py")
        for folder in folders:
            for name in names:
                yield from module_files(folder, name)


def module_files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files that `import name` executes if the module lies below a folder."""
    parts = name.split(".")
    place = folder.joinpath(*parts)
    found = [*_existing(place.with_suffix(".py")), *_existing(place / "__init__.py")]
    if found:
        for depth in range(1, len(parts)):
            yield from _existing(folder.joinpath(*parts[:depth], "__init__.py"))
    yield from found


def _existing(*files: Path) -> Iterator[Path]:
    yield from (file for file in files if file.is_file())
