"""Execute a hidden test in this process, after everything that protects it is in place."""

from __future__ import annotations

import linecache
import os
import runpy
import sys
import tokenize
import traceback
import types
from pathlib import Path

from .files import HiddenFiles
from .guard import Guard
from .programs import Programs
from .settings import TestSettings

_ = (linecache, tokenize, traceback)  # Loaded before `open` is replaced.


def main(file: str) -> None:
    """Run the test that a settings file describes, and end as it does."""
    settings = TestSettings.load(Path(file))
    os.unlink(file)
    os.chdir(settings.work)
    files = HiddenFiles(settings)
    programs = Programs(settings)
    files.install()
    programs.install()
    Guard(settings, files, programs).install()
    _run(settings, files)


def _run(settings: TestSettings, files: HiddenFiles) -> None:
    target = settings.target
    sys.argv[:] = [target, *settings.arguments]
    if settings.kind == "module":
        sys.path.insert(0, files.folder)
        if target == "pytest":
            sys.argv[1:] = [files.real_argument(word) for word in settings.arguments]
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    if settings.kind == "code":
        sys.argv[0] = "-c"
        sys.path.insert(0, files.folder)
        _execute(target, "<string>", None)
        return
    path = os.path.join(settings.work, target)
    if settings.imports_siblings:
        sys.path.insert(0, os.path.dirname(files.real(path)))
    _execute(Path(files.real(path)).read_bytes(), path, path)


def _execute(source: str | bytes, name: str, path: str | None) -> None:
    """Execute source code as the module `__main__`."""
    main = types.ModuleType("__main__")
    if path:
        main.__file__ = path
    sys.modules["__main__"] = main
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)
