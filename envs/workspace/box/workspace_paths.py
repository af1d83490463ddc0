"""Where a path of the model leads: never out of the work folder, and never to anything but files and folders."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def inside(folder: Path, path: str) -> Path:
    """The place in the folder that a relative path means; links within the folder are followed.

    Raises: ValueError for one that leads out, or is no path.
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
    """Tells the model what the system refuses, as an observation."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def open_file(place: Path, flags: int) -> int:
    """A descriptor of a regular file. Raises OSError; ValueError for a pipe or another thing that would hold us up."""
    descriptor = os.open(place, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("this is no file")
    return descriptor
