"""Work folder of a session as state: lay it out, hash it, and compare it with its start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AppError
from .file_tree import TooLarge, Tree, diff_trees, read_tree, to_plain
from .tables import RowChanges

TABLE = "files"
"""Name of the table of file changes in a diff. Its key is `path`."""
FOLDER = "work"
"""Name of the work folder inside the private folder of its session."""

LayOut = Callable[[Path, int], Any]


@dataclass(frozen=True)
class Files:
    """Files of a work folder at one moment."""

    tree: Tree
    problem: str = ""
    """Reason why the tree could not be read. Empty if it could."""

    def changes(self, start: Tree) -> RowChanges:
        """Return the table `files`, or {} if no file changed. An unreadable tree is one row."""
        if self.problem:
            text = f"not compared: {self.problem}"
            marker = {"path": "[cut]", "kind": "cut", "mode": "", "text": text}
            return {TABLE: {"added": [marker], "removed": []}}
        changes = diff_trees(start, self.tree)
        return {TABLE: changes} if changes["added"] or changes["removed"] else {}

    def hand_over(self) -> dict[str, Any]:
        """Return the tree as JSON values, or the `problem` that prevents a check of it."""
        problem = f"not checked: {self.problem}" if self.problem else ""
        return {"tree": to_plain(self.tree), "problem": problem}


def read_files(folder: str | Path, *, parent: int | None = None) -> Files:
    """Read a work folder; see `read_tree` for the arguments. Never raises for what it holds."""
    try:
        return Files(read_tree(folder, parent=parent))
    except TooLarge as error:
        return Files({}, f"the folder holds {error}")
    except OSError as error:
        return Files({}, f"the folder cannot be read: {error.strerror}")


def starting_tree(lay_out: LayOut, folder: Path, seed: int) -> Tree:
    """Lay out the files of a seed in an empty folder and return their tree.

    Raises:
        AppError: If they exceed a limit or contain a special file.
    """
    lay_out(folder, seed)
    try:
        tree = read_tree(folder)
    except TooLarge as error:
        raise AppError(
            f"state.files creates {error} (seed {seed}), which exceeds the limit"
        ) from None
    if odd := [path for path, entry in tree.items() if entry.kind == "special"]:
        raise AppError(
            f"state.files creates '{odd[0]}' (seed {seed}), which is not a file, folder or link"
        )
    return tree


class WorkFolder:
    """Work folder of one session, `place`/work, with its starting tree."""

    def __init__(self, lay_out: LayOut, place: str | Path, seed: int):
        self.path = Path(place) / FOLDER
        self.path.mkdir(mode=0o755)
        self.start = starting_tree(lay_out, self.path, seed)

    def hash_with(self, tables: str) -> str:
        """Return a hash of the start state; `tables` is the hash of its tables."""
        digest = hashlib.sha256(tables.encode())
        for path, entry in sorted(self.start.items()):
            digest.update(repr((os.fsencode(path), entry.kind, entry.mode, entry.content)).encode())
        return digest.hexdigest()[:16]
