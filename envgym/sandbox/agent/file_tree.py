"""A session's work folder as state: what is laid out at its start, what lies there now, and how the two differ.

A tree is read without following links and without opening anything but regular files, up to a number of entries and bytes; one
that is larger shows as a single marker row. Compared are kind, mode and content. Names that are not UTF-8 are kept as they are
and shown with backslashes (`caf\\xe9`).

Not covered: owners, times, extended attributes, hard links (shown as two files).
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
"""What is read back of a tree; file contents only. The starting tree must keep within it too."""
MOST_PATH = 1024
"""Bytes of a relative path; systems refuse absolute ones of 1024 (macOS) or 4096 (Linux) bytes."""
TABLE = "files"
"""Name under which a folder's changes stand beside those of tables; its key is `path`."""

LayOut = Callable[[Path, int], Any]


class TooLarge(Exception):
    """A tree is beyond what is read back; the message says in what."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder."""

    kind: str
    """`file`, `folder`, `link`, or `special` for what is none of these (a pipe, a socket, a device)."""
    mode: int
    """Permission bits; those of a link mean nothing and are 0o777 everywhere."""
    content: bytes = b""
    """Of a file its bytes, of a link its target."""


Tree = dict[str, Entry]
"""Path from the folder, with slashes, as `os.fsdecode` gives it -> entry."""


# --- reading and writing ---


def read_tree(folder: str | Path) -> Tree:
    """All that lies in a folder; a folder that is gone is empty. Raises TooLarge."""
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
    """Gives the owner rights that an entry lacks, until it has been read. Raises NotADirectoryError for a link."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise NotADirectoryError(path)  # put there since it was listed; never followed
    mode = stat.S_IMODE(found.st_mode)
    if mode & needed != needed:
        os.chmod(path, mode | needed)
        undo.callback(_restore, path, mode)


def _restore(path: str, mode: int) -> None:
    with contextlib.suppress(OSError):
        os.chmod(path, mode)


def _entry(path: str, left: int) -> Entry | None:
    """What lies at a path; None where it went away meanwhile. Raises TooLarge for more than `left` bytes."""
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
        # A process that is still at work may put a pipe or a link in its place: neither may hold us up.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(path)
            content = file.read(left + 1)
    if len(content) > left:
        raise TooLarge(f"more than {MOST_BYTES:,} bytes in files")
    return content


def write_tree(tree: Tree, folder: str | Path) -> None:
    """Puts a tree into an empty folder; special entries are left out."""
    for path, entry in sorted(tree.items()):  # a folder stands before what lies in it
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
    """An empty folder where temporary ones are made; `ENVGYM_SCRATCH` says where the agent's belong."""
    return tempfile.mkdtemp(prefix="envgym-", dir=os.environ.get("ENVGYM_SCRATCH"))


@contextlib.contextmanager
def folder_for_now() -> Iterator[str]:
    folder = fresh_folder()
    try:
        yield folder
    finally:
        wipe(folder)


def wipe(folder: str | Path) -> None:
    """Removes a folder whatever lies in it: nests that are deeper than a path may be long, folders without rights.

    Folders within are moved up beside the first one before they are emptied, so that no path grows. Never raises.
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
    """Removes a folder; those in it come to lie in the heap, under the names returned."""
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
    """An entry as a row: path, kind, mode (octal), text."""
    return {
        "path": _shown(os.fsencode(path)),
        "kind": entry.kind,
        "mode": format(entry.mode, "o"),
        "text": text_of(entry),
    }


def text_of(entry: Entry) -> str:
    """A file's text, or `sha256:...` where it is not UTF-8; a link's target."""
    if entry.kind == "link":
        return _shown(entry.content)
    try:
        return entry.content.decode()
    except UnicodeDecodeError:
        return f"sha256:{hashlib.sha256(entry.content).hexdigest()}"


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def diff_trees(start: Tree, now: Tree) -> dict[str, list[dict[str, Any]]]:
    """Rows now there and not at the start, and the reverse."""
    return {"added": _unlike(now, start), "removed": _unlike(start, now)}


def _unlike(tree: Tree, other: Tree) -> list[dict[str, Any]]:
    return [row(path, entry) for path, entry in sorted(tree.items()) if other.get(path) != entry]


def to_plain(tree: Tree) -> dict[str, list[Any]]:
    """A tree as JSON can carry it; `from_plain` gives it back."""
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
    """Lays a seed's files out in an empty folder and reads them back. Raises AppError for too many of them."""
    lay_out(folder, seed)
    try:
        tree = read_tree(folder)
    except TooLarge as error:
        raise AppError(
            f"state.files lays out {error} (seed {seed}), which is more than is read back"
        ) from None
    if odd := [path for path, entry in tree.items() if entry.kind == "special"]:
        raise AppError(
            f"state.files makes '{odd[0]}' (seed {seed}), which is neither file, folder nor link"
        )
    return tree


class WorkFolder:
    """The folder that one session works in, `work` in its place, and the tree that it started with."""

    def __init__(self, lay_out: LayOut, place: str | Path, seed: int):
        self.path = Path(place) / "work"
        self.path.mkdir(mode=0o755)
        self.start = starting_tree(lay_out, self.path, seed)

    def hash_with(self, tables: str) -> str:
        """Names the whole starting state: `tables` is the name of its tables."""
        digest = hashlib.sha256(tables.encode())
        for path, entry in sorted(self.start.items()):
            digest.update(repr((os.fsencode(path), entry.kind, entry.mode, entry.content)).encode())
        return digest.hexdigest()[:16]

    def diff(self) -> RowChanges:
        """The table `files`, where anything changed."""
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
        """The tree as it lies there now, for a check in another process; `problem` says why there is none."""
        try:
            return {"tree": to_plain(read_tree(self.path)), "problem": ""}
        except TooLarge as error:
            return {"tree": {}, "problem": f"not checked: the folder holds {error}"}


def with_hidden(tree: Tree, files: dict[str, str]) -> Tree:
    """A tree with files put into it, whatever stood in their way."""
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
