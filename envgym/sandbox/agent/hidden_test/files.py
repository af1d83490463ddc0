"""Hidden files of a test: found at their path in the work folder, by the test alone.

They lie in a private folder. `open`, `os.stat` and the like of the test's process find them there,
so `open("tests/data.json")` and `Path(__file__).unlink()` work as if they lay in the work folder.
Files of the work folder are opened without following links that lead out of it: otherwise a program
could leave a link to a hidden file in place of its output.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
from collections.abc import Callable
from typing import Any

from .. import linux
from .settings import TestSettings

FOLDER = "files"
"""Folder of the hidden files, inside the private folder."""
REDIRECTED = ("stat", "lstat", "unlink", "remove", "access", "listdir", "scandir", "chmod", "utime")


class HiddenFiles:
    """Map the hidden files' paths in the work folder to their real ones."""

    def __init__(self, settings: TestSettings):
        self.folder = os.path.join(settings.private, FOLDER)
        self._private = settings.private
        self._work = settings.work
        self._places = {
            os.path.join(settings.work, name): os.path.join(self.folder, name)
            for name in settings.hidden
        }
        self._folders = self._folders_of(settings)
        self._root = os.open(settings.work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _folders_of(self, settings: TestSettings) -> dict[str, str]:
        """Return the folders that hold hidden files alone, such as `tests`."""
        names = {os.path.dirname(name) for name in settings.hidden} - {""}
        return {
            place: os.path.join(self.folder, name)
            for name in names
            if not os.path.lexists(place := os.path.join(settings.work, name))
        }

    def is_hidden(self, path: str) -> bool:
        """Return whether an absolute path names a hidden file in the work folder."""
        return path in self._places

    def real(self, path: Any) -> Any:
        """Return the real path of a hidden file, and everything else as it is."""
        if isinstance(path, int) or path is None:
            return path
        try:
            absolute = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError):
            return path
        return self._places.get(absolute) or self._folders.get(absolute) or path

    def real_argument(self, word: str) -> str:
        """Return an argument of pytest with the real path of a hidden file, such as `t.py::x`."""
        path, mark, name = word.partition("::")
        return os.fspath(self.real(path)) + mark + name

    def install(self) -> None:
        """Replace the functions that open or look at files in this process."""
        plain_open = io.open
        plain_os_open = os.open

        @functools.wraps(plain_open)
        def open_file(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            path = self.real(file)
            if len(rest) < 6 and options.get("opener") is None and self._is_in_work(path):
                options["opener"] = self._opener(plain_os_open)
            return plain_open(path, mode, *rest, **options)

        @functools.wraps(plain_os_open)
        def open_descriptor(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            path = self.real(path)
            if options.get("dir_fd") is None and self._is_in_work(path):
                return self._opener(plain_os_open, mode)(path, flags)
            return plain_os_open(path, flags, mode, **options)

        builtins.open = io.open = open_file  # type: ignore[assignment]
        os.open = open_descriptor
        for name in REDIRECTED:
            setattr(os, name, self._redirected(getattr(os, name)))

    def _redirected(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def redirected(path: Any = ".", *rest: Any, **options: Any) -> Any:
            if options.get("dir_fd") is None:
                path = self.real(path)
            return function(path, *rest, **options)

        return redirected

    def _is_in_work(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        absolute = os.path.abspath(os.fsdecode(path))
        return absolute.startswith(self._work + "/")

    def _opener(
        self, plain_open: Callable[..., int], new_mode: int = 0o666
    ) -> Callable[[Any, int], int]:
        """Return an opener that follows no link out of the work folder."""

        def opener(path: Any, flags: int) -> int:
            absolute = os.path.abspath(os.fsdecode(path))
            for place in (absolute, None):
                # An absolute link into the work folder leads out of it for the kernel; its target
                # does not.
                place = place or os.path.realpath(absolute)
                self.check_target(absolute)
                inner = os.path.relpath(place, self._work)
                try:
                    return linux.open_beneath(self._root, inner, flags, new_mode)
                except OSError as error:
                    if error.errno in (errno.ENOSYS, errno.EPERM):  # an old kernel or a filter
                        break
                    if error.errno != errno.EXDEV:
                        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
            self.check_target(absolute)
            return plain_open(absolute, flags, new_mode)

        return opener

    def check_target(self, path: str) -> None:
        """Raise PermissionError if a path of the programs leads to a place of the test's own.

        Only the private folder itself may be named to reach it.
        """
        if path == self._private or path.startswith(self._private + "/"):
            return
        target = os.path.realpath(path)
        is_in_work = path.startswith(self._work + "/")
        if is_in_work and not (target + "/").startswith(self._work + "/"):
            raise PermissionError(f"{path}: is a link that leads out of the work folder")
        if (target + "/").startswith(self._private + "/"):
            raise PermissionError(f"{path}: is a link to the files of the hidden test")
