"""Work folder of a session as state: lay out, read back and diff a file tree.

Reading never follows links and opens regular files only. It is limited in entries and bytes; a
larger tree is diffed as one marker row. Kind, mode and content are compared. File names that are
not UTF-8 are shown with backslashes (`caf\\xe9`). Not supported: owners, times, extended
attributes, hard links (shown as two files).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AppError
from .tables import RowChanges

MOST_ENTRIES = 2000
MOST_BYTES = 2 * 2**20
"""Maximum bytes of file contents read from a tree. The starting tree must keep within it too."""
MOST_PATH = 1024
"""Maximum bytes of a relative path. Systems allow 1024 (macOS) or 4096 (Linux) in all."""
TABLE = "files"
"""Name of the table of file changes in a diff. Its key is `path`."""

LayOut = Callable[[Path, int], Any]


class TooLarge(Exception):
    """A tree exceeds a limit. The message names the limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """File, folder, link or special file in a tree."""

    kind: str
    """Kind: `file`, `folder`, `link`, or `special` (a pipe, socket or device)."""
    mode: int
    """Permission bits. Always 0o777 for a link, because systems differ."""
    content: bytes = b""
    """Bytes of a file, or target of a link."""


Tree = dict[str, Entry]
"""Relative path, decoded by `os.fsdecode`, to entry."""


# --- reading and writing ---


def read_tree(folder: str | Path) -> Tree:
    """Return the tree of a folder. A missing folder is empty. Raises TooLarge."""
    with contextlib.ExitStack() as undo:
        return _read(os.fspath(folder), undo)


def _read(folder: str, undo: contextlib.ExitStack) -> Tree:
    tree: Tree = {}
    left = MOST_BYTES
    pending = [""]
    while pending:
        inner = pending.pop()
        for name in _names(os.path.join(folder, inner) if inner else folder, undo):
            path = f"{inner}/{name}" if inner else name
            if len(tree) >= MOST_ENTRIES:
                raise TooLarge(f"more than {MOST_ENTRIES:,} files and folders")
            if len(os.fsencode(path)) > MOST_PATH:
                raise TooLarge(f"a path of more than {MOST_PATH:,} bytes")
            if entry := _entry(os.path.join(folder, path), left):
                tree[path], left = entry, left - len(entry.content)
                pending += [path] if entry.kind == "folder" else []
    return tree


def _names(folder: str, undo: contextlib.ExitStack) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _permit(folder, 0o700, undo)
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1))
    return []


def _permit(path: str, needed: int, undo: contextlib.ExitStack) -> None:
    """Grant the owner missing permissions until `undo` runs.

    Raises:
        NotADirectoryError: If the path is a link.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        # A link replaced the entry after it was listed; do not follow it.
        raise NotADirectoryError(path)
    mode = stat.S_IMODE(found.st_mode)
    if mode & needed != needed:
        os.chmod(path, mode | needed)
        undo.callback(_restore, path, mode)


def _restore(path: str, mode: int) -> None:
    with contextlib.suppress(OSError):
        os.chmod(path, mode)


def _entry(path: str, left: int) -> Entry | None:
    """Return the entry at a path, or `None` if it has vanished.

    Raises:
        TooLarge: If a file has more than `left` bytes.
    """
    try:
        found = os.lstat(path)
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            return Entry("folder", mode)
        if stat.S_ISLNK(found.st_mode):
            return Entry("link", 0o777, os.fsencode(os.readlink(path)))
        return (
            Entry("file", mode, _content(path, left))
            if stat.S_ISREG(found.st_mode)
            else Entry("special", mode)
        )
    except (FileNotFoundError, NotADirectoryError):
        return None


def _content(path: str, left: int) -> bytes:
    with contextlib.ExitStack() as undo:
        _permit(path, 0o400, undo)
        # A running process may replace the file by a pipe or a link; neither may block or redirect
        # us.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(path)
            content = file.read(left + 1)
    if len(content) > left:
        raise TooLarge(f"more than {MOST_BYTES:,} bytes in files")
    return content


def write_tree(tree: Tree, folder: str | Path) -> None:
    """Write a tree into an empty folder. Special entries are skipped."""
    for path, entry in sorted(tree.items()):  # Sorted, a folder comes before its contents.
        at = os.path.join(folder, path)
        if entry.kind == "folder":
            os.mkdir(at, 0o700)
        elif entry.kind == "link":
            os.symlink(os.fsdecode(entry.content), at)
        elif entry.kind == "file":
            Path(at).write_bytes(entry.content)
            os.chmod(at, entry.mode)
    for path, entry in sorted(tree.items(), reverse=True):
        if entry.kind == "folder":
            os.chmod(os.path.join(folder, path), entry.mode)


def fresh_folder() -> str:
    """Create an empty temporary folder, inside `ENVGYM_SCRATCH` if it is set."""
    return tempfile.mkdtemp(prefix="envgym-", dir=os.environ.get("ENVGYM_SCRATCH"))


@contextlib.contextmanager
def folder_for_now() -> Iterator[str]:
    folder = fresh_folder()
    try:
        yield folder
    finally:
        wipe(folder)


def wipe(folder: str | Path) -> None:
    """Remove a folder with any contents, including overlong paths and folders without permissions.

    Subfolders are moved up beside the first one before they are emptied, so no path grows. Never
    raises.
    """
    top = os.fspath(folder)
    if not os.path.lexists(top):
        return
    with contextlib.suppress(OSError):
        heap = tempfile.mkdtemp(prefix="wiped-", dir=os.path.dirname(os.path.abspath(top)))
        os.rename(top, os.path.join(heap, "0"))
        names = map(str, itertools.count(1))
        pending = ["0"]
        while pending:
            pending += _empty(os.path.join(heap, pending.pop()), heap, names)
        os.rmdir(heap)


def _empty(folder: str, heap: str, names: Iterator[str]) -> list[str]:
    """Remove a folder. Its subfolders are moved into the heap, under the names returned."""
    moved = []
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, os.path.join(heap, name := next(names)))
                moved.append(name)
            else:
                os.unlink(entry.path)
        os.rmdir(folder)
    return moved


# --- as rows, and over the wire ---


def row(path: str, entry: Entry) -> dict[str, str]:
    """Return an entry as a row with path, kind, mode (octal) and text."""
    return {
        "path": _shown(os.fsencode(path)),
        "kind": entry.kind,
        "mode": format(entry.mode, "o"),
        "text": entry_text(entry),
    }


def entry_text(entry: Entry) -> str:
    """Return a file's text, `sha256:...` if it is not UTF-8, or a link's target."""
    if entry.kind == "link":
        return _shown(entry.content)
    try:
        return entry.content.decode()
    except UnicodeDecodeError:
        return f"sha256:{hashlib.sha256(entry.content).hexdigest()}"


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def diff_trees(start: Tree, now: Tree) -> dict[str, list[dict[str, Any]]]:
    """Return the rows added and removed between two trees."""
    return {"added": _unlike(now, start), "removed": _unlike(start, now)}


def _unlike(tree: Tree, other: Tree) -> list[dict[str, Any]]:
    return [row(path, entry) for path, entry in sorted(tree.items()) if other.get(path) != entry]


def to_plain(tree: Tree) -> dict[str, list[Any]]:
    """Convert a tree to JSON values. `from_plain` is the inverse."""
    return {
        path: [entry.kind, entry.mode, base64.b64encode(entry.content).decode()]
        for path, entry in tree.items()
    }


def from_plain(plain: dict[str, list[Any]]) -> Tree:
    return {
        path: Entry(kind, mode, base64.b64decode(content))
        for path, (kind, mode, content) in plain.items()
    }


# --- a session's folder ---


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
        self.path = Path(place) / "work"
        self.path.mkdir(mode=0o755)
        self.start = starting_tree(lay_out, self.path, seed)

    def hash_with(self, tables: str) -> str:
        """Return a hash of the start state; `tables` is the hash of its tables."""
        digest = hashlib.sha256(tables.encode())
        for path, entry in sorted(self.start.items()):
            digest.update(repr((os.fsencode(path), entry.kind, entry.mode, entry.content)).encode())
        return digest.hexdigest()[:16]

    def diff(self) -> RowChanges:
        """Return the table `files`, or {} if no file changed."""
        try:
            changes = diff_trees(self.start, read_tree(self.path))
        except TooLarge as error:
            marker = {
                "path": "[cut]",
                "kind": "cut",
                "mode": "",
                "text": f"not compared: the folder holds {error}",
            }
            changes = {"added": [marker], "removed": []}
        return {TABLE: changes} if changes["added"] or changes["removed"] else {}

    def hand_over(self) -> dict[str, Any]:
        """Return the current tree as JSON values, or the `problem` that prevents reading it."""
        try:
            return {"tree": to_plain(read_tree(self.path)), "problem": ""}
        except TooLarge as error:
            return {"tree": {}, "problem": f"not checked: the folder holds {error}"}


def with_hidden(tree: Tree, files: dict[str, str]) -> Tree:
    """Return a tree with files added; they replace conflicting entries."""
    whole = dict(tree)
    for name, text in files.items():
        for path in _below(whole, name):
            del whole[path]
        for parent in [str(folder) for folder in Path(name).parents][:-1]:
            whole[parent] = Entry("folder", 0o755)
        whole[name] = Entry("file", 0o644, text.encode())
    return whole


def _below(tree: Iterable[str], folder: str) -> list[str]:
    return [path for path in tree if path == folder or path.startswith(f"{folder}/")]
