"""Checks of paths: names of runs, and links that lead out of a run folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from envgym.errors import UsageError


def check_run_name(name: str) -> None:
    """Check that a name is one folder name, so that a run stays in the folder of the runs.

    Raises:
        UsageError: If it is empty, `.` or `..`, or has a separator or a control character.
    """
    if name in ("", ".", "..") or any(c in "/\\" or not c.isprintable() for c in name):
        raise UsageError(
            f"run name {name!r} is not a folder name. Use letters, digits, '-', '_' and '.'; "
            "to choose the folder of the runs, use --out."
        )


def check_inside(folder: Path) -> None:
    """Check that a run folder has no link to a place outside of it, and only files and folders.

    A folder from somebody else may have links to files of this machine, which must be neither read
    nor changed.

    Raises:
        UsageError: For the first link that leads outside, or special file.
    """
    top = folder.resolve()
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not path.resolve().is_relative_to(top):
                raise UsageError(
                    f"{path} is a link to {os.readlink(path)}, outside of the run folder, and is "
                    "not followed. Replace it with the file, or remove it."
                )
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError(f"{path} is neither a file nor a folder. Remove it.")
