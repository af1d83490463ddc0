"""File trees as state: read, write, compare and remove them.

Reading never follows links and opens regular files only. It is limited in entries and bytes; a
larger tree is diffed as one marker row. Kind, mode and content are compared. File names that are
not UTF-8 are shown with backslashes (`caf\\xe9`). Not supported: owners, times, extended
attributes, hard links (shown as two files).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_ENTRIES = 2000
MOST_BYTES = 2 * 2**20
"""Maximum bytes of file contents read from a tree. The starting tree must keep within it too."""
MOST_PATH = 1024
"""Maximum bytes of a relative path. Systems allow 1024 (macOS) or 4096 (Linux) in all."""
MOST_DEPTH = 100
"""Maximum number of folders in each other. One descriptor is open for each of them."""
VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors if an entry was removed, or replaced by a link, after it was listed."""


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


def read_tree(folder: str | Path, *, parent: int | None = None) -> Tree:
    """Return the tree of a folder. A missing folder, or a link in its place, is empty.

    Every folder is opened inside its parent, so a link that replaces it meanwhile is not followed.

    Args:
        folder: Path of the folder, relative to `parent` if that is given.
        parent: Descriptor of an open folder.

    Raises:
        TooLarge: If the tree exceeds a limit.
        OSError: If a file or folder cannot be read.
    """
    tree: Tree = {}
    with _opened(os.fspath(folder), parent) as top:
        if top is not None:
            _read(top, "", tree, MOST_BYTES)
    return tree


@contextlib.contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int | None]:
    """Open a folder with all rights of its owner, for now. Yields `None` if it is no folder."""
    try:
        mode = _permit(name, parent, 0o700)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        yield None
        return
    try:
        yield descriptor
    finally:
        _restore(descriptor, mode)
        os.close(descriptor)


def _read(folder: int, above: str, tree: Tree, left: int) -> int:
    """Add the entries of an open folder to the tree. Return the bytes that are left to read."""
    if above.count("/") > MOST_DEPTH:
        raise TooLarge(f"folders nested more than {MOST_DEPTH} deep")
    for name in _names(folder):
        path = f"{above}{name}"
        if len(tree) >= MOST_ENTRIES:
            raise TooLarge(f"more than {MOST_ENTRIES:,} files and folders")
        if len(os.fsencode(path)) > MOST_PATH:
            raise TooLarge(f"a path of more than {MOST_PATH:,} bytes")
        entry = _entry(name, folder, left)
        if entry is None:
            continue
        tree[path] = entry
        left -= len(entry.content)
        if entry.kind == "folder":
            with _opened(name, folder) as inner:
                left = left if inner is None else _read(inner, f"{path}/", tree, left)
    return left


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1))


def _permit(name: str, parent: int | None, needed: int) -> int | None:
    """Grant the owner missing permissions. Return the mode to restore, `None` if it is unchanged.

    Raises:
        NotADirectoryError: If the entry is a link.
    """
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    mode = stat.S_IMODE(found.st_mode)
    if mode & needed == needed:
        return None
    os.chmod(name, mode | needed, dir_fd=parent)
    return mode


def _restore(descriptor: int, mode: int | None) -> None:
    if mode is not None:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)


def _entry(name: str, parent: int, left: int) -> Entry | None:
    """Return an entry of a folder, or `None` if it has vanished.

    Raises:
        TooLarge: If a file has more than `left` bytes.
    """
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            return Entry("folder", mode)
        if stat.S_ISLNK(found.st_mode):
            return Entry("link", 0o777, os.fsencode(os.readlink(name, dir_fd=parent)))
        if stat.S_ISREG(found.st_mode):
            return Entry("file", mode, _content(name, parent, left))
        return Entry("special", mode)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        return None


def _content(name: str, parent: int, left: int) -> bytes:
    mode = _permit(name, parent, 0o400)
    # A running process may replace the file by a pipe or a link; neither may block or redirect us.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(name, flags, dir_fd=parent), "rb") as file:
        _restore(file.fileno(), mode)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
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
        heap = _heap_beside(top)
        if not os.path.lexists(top):
            os.rmdir(heap)
            return
        os.rename(top, os.path.join(heap, "0"))
        names = map(str, itertools.count(1))
        pending = ["0"]
        while pending:
            pending += _empty(os.path.join(heap, pending.pop()), heap, names)
        os.rmdir(heap)


def _heap_beside(top: str) -> str:
    """Create a folder beside another one. On a full disk that one is emptied as far as possible."""
    beside = os.path.dirname(os.path.abspath(top))
    try:
        return tempfile.mkdtemp(prefix="wiped-", dir=beside)
    except OSError:
        shutil.rmtree(top, ignore_errors=True)
        return tempfile.mkdtemp(prefix="wiped-", dir=beside)


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
