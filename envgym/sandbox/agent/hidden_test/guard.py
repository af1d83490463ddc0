"""Audit hook of the test's process: it refuses the model's code and links to hidden files.

A hidden test starts the model's code as a program. Imported or executed here, that code could end
the test with exit code 0. Source: https://docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from .files import HiddenFiles
from .programs import Programs
from .settings import TestSettings

IMPORTERS = ("importlib", "runpy", "pkgutil", "zipimport", "imp")
"""Parts of the file names of modules that open files in order to execute them."""
STARTS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
SAFE_TYPES = {
    "builtins": {"set", "frozenset", "complex", "bytearray", "range", "slice", "object"},
    "collections": {"OrderedDict", "Counter", "deque", "defaultdict"},
    "datetime": {"date", "time", "datetime", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "copyreg": {"_reconstructor"},
}
"""Types that a pickle may contain. Others could run code in the test."""


class Guard:
    """Refuse what would bring the model's code into this process."""

    def __init__(self, settings: TestSettings, files: HiddenFiles, programs: Programs):
        self._files = files
        self._programs = programs
        self._work = settings.work
        self._home = settings.home

    def install(self) -> None:
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._check_open(arguments[0])
        elif event == "exec":
            self._check_code(arguments[0])
        elif event in ("import", "ctypes.dlopen", "sqlite3.connect"):
            name = arguments[1] if event == "import" else arguments[0]
            if event == "sqlite3.connect":
                self._check_open(name)
            elif name and self._is_of_model(name):
                self._refuse(name)
        elif event == "pickle.find_class":
            module, name = arguments
            if name not in SAFE_TYPES.get(module, ()):
                raise PermissionError(
                    f"a hidden test loads no pickle with {module}.{name}, because the model's "
                    "program may have written it. Exchange JSON or text"
                )
        elif event in STARTS and not self._programs.is_starting:
            raise PermissionError(
                f"{event}: a hidden test starts programs with `subprocess`, which runs them under "
                "another user; a process made otherwise could read the test"
            )

    def _check_open(self, path: Any) -> None:
        if not isinstance(path, str | bytes):
            return
        absolute = os.path.abspath(os.fsdecode(path))
        self._files.check_target(absolute)
        if self._is_of_model(absolute) and _caller_imports():
            self._refuse(absolute)

    def _check_code(self, code: Any) -> None:
        name = code.co_filename if isinstance(code, types.CodeType) else ""
        if name and not name.startswith("<") and self._is_of_model(name):
            self._refuse(name)

    def _is_of_model(self, path: Any) -> bool:
        absolute = os.path.abspath(os.path.join(self._work, os.fsdecode(path)))
        if self._files.is_hidden(absolute):
            return False
        places = (absolute + "/", os.path.realpath(absolute) + "/")
        return any(
            place.startswith(f"{folder}/")
            for place in places
            for folder in (self._work, self._home)
        )

    def _refuse(self, name: Any) -> None:
        raise ImportError(
            f"{os.fsdecode(name)}: a hidden test must not import or execute the model's code, "
            "which could end the test with exit code 0. Start it as a program: "
            "subprocess.run([sys.executable, '-I', 'program.py'])"
        )


def _caller_imports() -> bool:
    """Return whether a file is being opened in order to execute it."""
    frame = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return False
        name = frame.f_code.co_filename
        if name.startswith("<frozen") or os.path.basename(name)[:-3] in IMPORTERS:
            return any(word in name for word in IMPORTERS)
        frame = frame.f_back  # type: ignore[assignment]
    return False
