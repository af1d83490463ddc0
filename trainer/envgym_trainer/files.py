"""Files that survive Ctrl-C and `kill -9`, and their hashes.

A file or folder is written under a temporary name, synced to disk and then renamed. After a crash
it has its old or its new content. `recover` removes what a crash left behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(file: Path, text: str) -> None:
    """Write a file atomically: after a crash it has its old or its new content."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.unlink(missing_ok=True)
    # Mode x: a link with this name must not be followed.
    with temporary.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync(file.parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` if the block ends without error."""
    temporary = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        apply_umask(*temporary.rglob("*"))
        sync(*temporary.rglob("*"), temporary)
    except BaseException:
        # Ctrl-C too must not leave an incomplete folder.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        # A folder cannot be renamed to one that is not empty.
        folder.rename(old)
    temporary.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that `recover` finds if the removal is interrupted."""
    # Rename first: a partly removed folder must not look complete.
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.partial")))


def recover(place: Path) -> None:
    """Repair a folder in which a process was killed while it wrote files or folders.

    A folder that was being replaced gets its name back. Incomplete files and folders are removed.
    """
    for old in place.glob(".*.old"):
        real = old.with_name(old.name[1:].removesuffix(".old"))
        if not real.exists() and not old.is_symlink():
            old.rename(real)
    for leftover in (*place.glob(".*.old"), *place.glob(".*.partial")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def apply_umask(*paths: Path) -> None:
    """Give files and folders the mode that the umask gives to new ones. Links are skipped.

    Libraries that write a private temporary file and rename it leave mode 0600, which another
    account, such as that of an inference server, cannot read.
    """
    if not paths:
        return
    # Read the modes from a new file and a new folder: the umask itself can only be read by
    # changing it for all threads.
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".mode.") as place:
        file = Path(place) / "file"
        folder = Path(place) / "folder"
        file.touch()
        folder.mkdir()
        file_mode, folder_mode = (stat.S_IMODE(each.stat().st_mode) for each in (file, folder))
    for path in paths:
        if not path.is_symlink():
            path.chmod(folder_mode if path.is_dir() else file_mode)


def sync(*paths: Path) -> None:
    """Flush files, and the entries of folders, to disk. Paths that do not exist are skipped."""
    for path in paths:
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, without reading it into memory whole."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path, *, skip: str) -> dict[str, str]:
    """Return name -> SHA-256 of each file directly in a folder, sorted by name.

    Args:
        folder: Folder of the files.
        skip: Name of a file that is left out, such as the manifest itself.
    """
    return {
        file.name: file_sha256(file)
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != skip
    }
