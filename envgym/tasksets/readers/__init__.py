"""Readers of labelled data.

This folder is the registry: a file `NAME.py` with a function `read(path)`, which yields an
`Example` for each row, reads the kind `NAME`. The constant `ENDINGS` names the files for which it
is the default, such as `(".md",)`. A row that is wrong is a `SpecError` with `file:line`. Further
parameters of `read` are options of `load_rows`. A file that reads several kinds names them in
`KINDS` and gets the chosen one as `kind=`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import UsageError, did_you_mean
from envgym.tasksets.examples import Example


@dataclass(frozen=True)
class Reader:
    """A function that reads one kind of file."""

    kind: str
    function: Callable[..., Iterable[Example]]
    endings: tuple[str, ...] = ()
    """File endings for which it is the default, such as `.csv`."""

    def read(self, path: Path, options: Mapping[str, Any]) -> list[Example]:
        """Return all examples of a file.

        Raises:
            SpecError: If the file is invalid.
            UsageError: If the reader does not have an option.
        """
        try:
            inspect.signature(self.function).bind(path, **options)
        except TypeError as error:
            raise UsageError(
                f"{path}: the reader of kind '{self.kind}' cannot be called: {error}"
            ) from None
        return list(self.function(path, **options))


def find_reader(path: Path, kind: str | None) -> Reader:
    """Return the reader of a file.

    Args:
        path: File to read.
        kind: Name of a reader of this folder, `file.py:name` relative to the file's folder, or
            `package.module:name`. None means the file's ending decides.

    Raises:
        UsageError: If there is no such reader.
        SpecError: If the file, the module or the name of a reader does not exist.
    """
    known = shipped_readers()
    if kind and ":" in kind:
        from envgym.modules import load_object

        return Reader(kind, load_object(kind, path.parent))
    ending = path.suffix.lower()
    found = known.get(kind) if kind else _by_ending(ending)
    if found is None:
        wrong = kind or ending.lstrip(".")
        raise UsageError(
            f"{path}: no kind of data '{wrong}'{did_you_mean(wrong, known)}; "
            f"name it: kind=... ({', '.join(known)}, or file.py:name for your own)"
        )
    return found


def _by_ending(ending: str) -> Reader | None:
    readers = shipped_readers().values()
    return next((reader for reader in readers if ending in reader.endings), None)


@functools.cache
def shipped_readers() -> dict[str, Reader]:
    """Return the readers of this folder, by kind."""
    found = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        kinds = getattr(module, "KINDS", ())
        for kind in kinds or (file.name,):
            function = functools.partial(module.read, kind=kind) if kinds else module.read
            found[kind] = Reader(kind, function, tuple(module.ENDINGS))
    return found
