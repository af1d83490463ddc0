"""Loads an app: files of tools, OpenAPI documents, a schema, a seed function.

Left out: reading YAML (the host hands parsed documents over), and references to installed packages (`package.module:name`);
an app is a folder of files.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import os
import sqlite3
import sys
import threading
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .describe import describe_tool
from .errors import AppError, tail_of
from .file_tree import LayOut
from .tables import prepare_image

Documents = Mapping[str, Any]
"""File -> parsed OpenAPI document. What knows them (`documents.py`) is a third of the agent's start, so few apps load it."""


@dataclass(frozen=True)
class LoadedApp:
    tools: dict[str, Callable[..., Any]]
    schema_sql: str | None
    seed_function: Callable[[sqlite3.Connection, int], Any] | None
    lay_out: LayOut | None = None
    root: str = "."
    servers: tuple[dict[str, Any], ...] = ()
    """MCP servers that a session may run: `name`, `command`, `env` each."""


def load_app(
    root: str | Path,
    tools: Sequence[str],
    schema: str | None = None,
    seed: str | None = None,
    *,
    files: str | None = None,
    documents: Documents | None = None,
    servers: Sequence[dict[str, Any]] = (),
) -> LoadedApp:
    """Imports the app's files; arguments as the fields of `envgym.sandbox.App`, `documents` parsed, by file. Raises AppError."""
    root = Path(root)
    written: dict[str, Callable[..., Any]] = {}
    for reference in [reference for reference in tools if not is_document(reference)]:
        for function in _tools_in(root, reference):
            if written.setdefault(function.__name__, function) is not function:
                raise AppError(
                    f"{reference}: two files define a tool named '{function.__name__}'; rename one of them"
                )
    found = _document_tools(tools, documents, written) if documents else {}
    found |= {name: function for name, function in written.items() if name not in found}
    for function in found.values():
        describe_tool(
            function
        )  # so that a mistake shows when the box starts, not at the first call
        if (
            not files
            and not hasattr(function, "tool_schema")
            and "folder" in inspect.signature(function).parameters
        ):
            raise AppError(
                f"tool '{function.__name__}' asks for 'folder', the work folder, which needs state.files in the YAML"
            )
    seed_function, lay_out = (
        _function_at(root, reference) if reference else None for reference in (seed, files)
    )
    app = LoadedApp(
        found,
        schema_sql(root, schema, documents),
        seed_function,
        lay_out,
        str(root),
        tuple(servers),
    )
    _check_tables(app.schema_sql, documents or {})
    return app


def is_document(reference: str) -> bool:
    """Whether a reference in `tools` names an OpenAPI document and no Python file."""
    return reference.partition(":")[0].endswith((".yaml", ".yml", ".json"))


def schema_sql(root: Path, schema: str | None, documents: Documents | None = None) -> str:
    """The SQL of all tables of an app: its schema file, then what its documents speak of. Raises AppError."""
    parts = [_schema_file(root, schema)] if schema else []
    if documents:
        from .openapi.ddl import schema_sql as tables_sql
        from .openapi.tools import read_documents

        parts += [tables_sql(api) for api in read_documents(documents).values()]
    return "\n".join(parts)


def _document_tools(
    tools: Sequence[str], documents: Documents, written: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    from .openapi.tools import document_functions, read_documents

    return document_functions(
        read_documents(documents),
        [reference for reference in tools if is_document(reference)],
        written,
    )


def _check_tables(sql: str | None, documents: Documents) -> None:
    empty = prepare_image(sql, None, 0)
    if documents:
        from .openapi.tools import check_tables, read_documents

        check_tables(empty, read_documents(documents))


def _schema_file(root: Path, schema: str) -> str:
    try:
        return (root / schema).read_text(encoding="utf-8")
    except OSError as error:
        raise AppError(f"{schema}: cannot read the schema: {error.strerror}") from None


def _tools_in(root: Path, reference: str) -> list[Callable[..., Any]]:
    """Every public function with a docstring that a file defines itself, or the one that is named."""
    if ":" in reference:
        return [_function_at(root, reference)]
    module = load_module(root / reference)
    own = [
        f
        for f in vars(module).values()
        if inspect.isfunction(f) and f.__module__ == module.__name__
    ]
    public = [
        function for function in own if not function.__name__.startswith("_") and function.__doc__
    ]
    if not public:
        raise AppError(
            f"{reference}: defines no tool. A tool is a public function with a docstring."
        )
    return public


def _function_at(root: Path, reference: str) -> Callable[..., Any]:
    file, _, name = reference.partition(":")
    module = load_module(root / file)
    function = getattr(module, name, None)
    if not callable(function):
        close = difflib.get_close_matches(
            name, [key for key, value in vars(module).items() if callable(value)], n=1
        )
        raise AppError(
            f"{file}: no function '{name}'" + (f", did you mean '{close[0]}'?" if close else "")
        )
    return function


_siblings: dict[str, dict[str, types.ModuleType]] = {}
_loading = threading.RLock()


def load_module(path: str | Path) -> types.ModuleType:
    """The module in a Python file, imported once; it may import files of its own folder. Raises AppError."""
    path = Path(path).resolve()
    name = f"_app_{zlib.crc32(str(path).encode()):08x}_{path.stem}"
    with _loading:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise AppError(f"{path}: no such Python file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            with _folder_first(str(path.parent)):
                spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            raise AppError(f"{path}: cannot be imported:\n{tail_of(error)}") from None
    return module


@contextlib.contextmanager
def _folder_first(folder: str) -> Iterator[None]:
    """Imports inside find the folder's own files, each folder having its own: two apps may both hold a `names.py`."""
    own = _siblings.setdefault(folder, {})
    before = dict(sys.modules)
    sys.modules.update(own)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for an import inside a function, at the time of a call
        own |= {
            name: module
            for name, module in sys.modules.items()
            if name not in before and _lies_in(name, folder)
        }
        for name in own:
            del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]


def _lies_in(name: str, folder: str) -> bool:
    file = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None) or ""
    return os.path.dirname(file.removesuffix("/__init__.py")) == folder and not name.startswith(
        "_app_"
    )
