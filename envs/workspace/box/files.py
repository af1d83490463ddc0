"""File tools. Paths are relative to the work folder and cannot leave it.

Errors of the operating system become observations.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from paths import inside, open_file, refusing

MOST_LINES = 200
"""Maximum number of entries in a listing, and of lines of a file without a range."""
MOST_BYTES = 256 * 1024
"""Maximum size of a file that is read."""


def list_files(folder: Path, path: str = ".") -> str:
    """List a folder and all below: permissions, size in bytes, path.

    Args:
        path: folder to list.
    """
    with refusing(path):
        place = inside(folder, path)
        if not place.is_dir():
            raise ValueError(f"{path}: no such folder")
        lines = []
        for line in _lines(place, Path(os.path.realpath(folder))):
            if len(lines) == MOST_LINES:
                return "\n".join(
                    [*lines, f"[more than {MOST_LINES} entries; list a folder of them]"]
                )
            lines.append(line)
    return "\n".join(lines) or "empty"


def _lines(place: Path, folder: Path) -> Iterator[str]:
    for entry in sorted(place.iterdir()):
        found = entry.lstat()
        path = os.fsencode(entry.relative_to(folder)).decode("utf-8", "backslashreplace")
        mode = format(stat.S_IMODE(found.st_mode), "o")
        if stat.S_ISDIR(found.st_mode):
            yield f"{mode} folder {path}/"
            if os.access(entry, os.R_OK | os.X_OK):
                yield from _lines(entry, folder)
        elif stat.S_ISLNK(found.st_mode):
            yield (
                f"link {path} -> "
                f"{os.fsencode(os.readlink(entry)).decode('utf-8', 'backslashreplace')}"
            )
        else:
            yield f"{mode} {found.st_size} {path}"


def read_file(folder: Path, path: str, first: int = 1, last: int = 0) -> str:
    """Read a file, or some of its lines.

    Args:
        first: number of the first line, from 1.
        last: number of the last line; 0 for as many as can be shown.
    """
    lines = _text(folder, path).splitlines(keepends=True)
    if first < 1 or last < 0 or (last and last < first):
        raise ValueError("lines count from 1, and the last is not before the first")
    if first > max(1, len(lines)):
        raise ValueError(f"{path} has {len(lines)} lines")
    end = min(last or len(lines), len(lines), first - 1 + MOST_LINES)
    cut = (
        f"[lines {first} to {end} of {len(lines)}]"
        if end < (last or len(lines)) and end < len(lines)
        else ""
    )
    return "".join(lines[first - 1 : end]) + cut or "empty"


def _text(folder: Path, path: str) -> str:
    with refusing(path):
        place = inside(folder, path)
        if place.is_dir():
            raise ValueError(f"{path}: is a folder")
        with open(open_file(place, os.O_RDONLY), "rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"{path}: larger than {MOST_BYTES // 1024} KiB; take run with head, grep or cut"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text") from None


def write_file(folder: Path, path: str, text: str) -> str:
    """Write a text file, new or instead of the old one; ends it with a newline.

    Args:
        path: file to write; its folders are made where they are missing.
        text: the whole content.
    """
    data = (text if text.endswith("\n") or not text else f"{text}\n").encode()
    with refusing(path):
        place = inside(folder, path)
        if place.is_dir():
            raise ValueError(f"{path}: is a folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, data)
    return "written"


def _write(place: Path, data: bytes) -> None:
    with open(open_file(place, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.truncate(0)
        file.write(data)


def patch_file(folder: Path, path: str, old: str, new: str) -> str:
    """Replace a piece of a file that stands in it exactly once.

    Args:
        old: the piece, to the letter.
        new: what stands there afterwards.
    """
    text = _text(folder, path)
    count = text.count(old) if old else 0
    if count != 1:
        found = (
            f"stands there {count} times, give more of what is around it"
            if count
            else "does not stand there"
        )
        raise ValueError(f"{path}: old {found}")
    data = text.replace(old, new).encode()
    with refusing(path):
        _write(inside(folder, path), data)
    return "patched"
