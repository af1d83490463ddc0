"""Resolve the model's paths: within the work folder, and only to files and folders."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def inside(folder: Path, path: str) -> Path:
    """Return the absolute path of a relative one; links within the folder are followed.

    Raises:
        ValueError: If the path leaves the folder or is invalid.
    """
    if path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r}: give a path relative to the work folder, such as notes/a.txt")
    home = os.path.realpath(folder)
    place = os.path.realpath(os.path.join(home, path))
    if place != home and not place.startswith(f"{home}/"):
        raise ValueError(f"{path!r} leads out of the work folder")
    return Path(place)


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn an error of the operating system into an observation for the model."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def open_file(place: Path, flags: int) -> int:
    """Open a regular file and return its descriptor.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is a pipe or another special file, which could block.
    """
    descriptor = os.open(place, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("this is no file")
    return descriptor
