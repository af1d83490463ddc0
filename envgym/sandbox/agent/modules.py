"""Import the Python files of environments and apps. Each folder is a package of its own.

A file imports its siblings by their plain names (`import names`), also inside functions. Siblings
go before all other modules, and files of other folders never see them; `sys.path` is unchanged. The
name of a module contains its folder, so that a pickled object can be loaded in another process.

Not supported: `importlib.import_module("names")` for a sibling. Use an import statement.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

PREFIX = f"{__name__}."
__path__: list[str] = []  # makes this module a package, so that names below it can be imported


def import_file(path: str | Path) -> types.ModuleType:
    """Return the module in a Python file, which is executed once a process.

    Raises:
        FileNotFoundError: If there is no such Python file.
        BaseException: Any exception that the file itself raises.
    """
    path = Path(path).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"{path}: no such Python file")
    return importlib.import_module(f"{PREFIX}{_encode(str(path.parent))}.{_encode(path.stem)}")


def _encode(text: str) -> str:
    """Return a path as one part of a dotted module name."""
    return text.replace("%", "%25").replace(".", "%2E")


def _decode(part: str) -> str:
    return part.replace("%2E", ".").replace("%25", "%")


def _folder_package(module_name: str) -> str:
    """Return the package of the folder in which a module was found."""
    return PREFIX + module_name[len(PREFIX) :].partition(".")[0]


class _Finder:
    """Finds the packages of folders, and the modules in them, by their names."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        folder, _, module = fullname[len(PREFIX) :].partition(".")
        if not module:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [_decode(folder)]
            return spec
        stem = _decode(module.rpartition(".")[2])
        for parent in path or ():
            base = os.path.join(parent, stem)
            for file, locations in ((f"{base}.py", None), (f"{base}/__init__.py", [base])):
                if os.path.isfile(file):
                    return importlib.util.spec_from_file_location(
                        fullname,
                        file,
                        loader=_Loader(fullname, file),
                        submodule_search_locations=locations,
                    )
        return PathFinder.find_spec(fullname, path)  # an extension module, a plain folder


class _Loader(SourceFileLoader):
    """Executes a file with an `__import__` of its own, which looks for siblings first."""

    def exec_module(self, module: types.ModuleType) -> None:
        find = functools.partial(_import, _folder_package(module.__name__))
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": find}
        super().exec_module(module)


def _import(
    package: str,
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> types.ModuleType:
    """Do what an import statement asks for, in a file of `package`. See `builtins.__import__`."""
    top = name.partition(".")[0]
    if level or not _is_sibling(package, top):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or ())
    return module if fromlist else sys.modules[f"{package}.{top}"]


def _is_sibling(package: str, top: str) -> bool:
    name = f"{package}.{top}"
    if name in sys.modules:
        return True
    spec = _Finder.find_spec(name, [_decode(package[len(PREFIX) :])])
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    # A folder of data does not hide a module of its name, and a package that Python finds at the
    # same place, such as an editable install, must not be loaded twice.
    ordinary = _ordinary_spec(top)
    if ordinary is None:
        return True
    origins = [spec.origin, ordinary.origin]
    return spec.origin is not None and len({os.path.realpath(str(at)) for at in origins}) == 2


def _ordinary_spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, such as `__main__`
        return None


sys.meta_path.insert(0, _Finder)  # before PathFinder, whose loader would find no siblings
