"""Load an app: files of tools, OpenAPI documents, a schema and a seed function.

Not supported: YAML files, because the host passes parsed documents; references to installed
packages (`package.module:name`), because an app is a folder of files.
"""

from __future__ import annotations

import difflib
import inspect
import sqlite3
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .describe import describe_tool
from .errors import AppError, tail_of
from .modules import import_file
from .tables import prepare_image
from .work_folder import LayOut
from .write_watch import referenced_tables

Documents = Mapping[str, Any]
"""File -> parsed OpenAPI document. The folder `openapi/` takes a third of the agent's start, so it
is imported only for an app that has some."""


@dataclass(frozen=True)
class LoadedApp:
    """The functions and files of an app, ready for sessions."""

    tools: dict[str, Callable[..., Any]]
    schema_sql: str | None
    seed_function: Callable[[sqlite3.Connection, int], Any] | None
    lay_out: LayOut | None = None
    root: str = "."
    servers: tuple[dict[str, Any], ...] = ()
    """MCP servers that a session may run, each with `name`, `command` and `env`."""
    watch: tuple[str, ...] = ()
    """Tables (patterns) whose writes are recorded at each call."""


def load_app(
    root: str | Path,
    tools: Sequence[str],
    schema: str | None = None,
    seed: str | None = None,
    *,
    files: str | None = None,
    documents: Documents | None = None,
    servers: Sequence[dict[str, Any]] = (),
    watch: Sequence[str] = (),
) -> LoadedApp:
    """Import an app's files and check them.

    Args:
        root: Folder to which all files are relative.
        tools: Python files, each with an optional `:function`, and OpenAPI documents.
        schema: SQL file of the tables.
        seed: `file.py:function(db, seed)` that fills the tables.
        files: `file.py:function(folder, seed)` that lays out the work folder.
        documents: Parsed OpenAPI documents by file.
        servers: MCP servers; see `LoadedApp`.
        watch: Tables (patterns) whose writes are recorded.

    Raises:
        AppError: If a file is missing or fails on import, or a tool or table is invalid.
    """
    root = Path(root)
    written: dict[str, Callable[..., Any]] = {}
    for reference in [reference for reference in tools if not is_document(reference)]:
        for function in _tools_in(root, reference):
            if written.setdefault(function.__name__, function) is not function:
                raise AppError(
                    f"{reference}: two files define a tool named '{function.__name__}'; "
                    "rename one of them"
                )
    found = _document_tools(tools, documents, written) if documents else {}
    found |= {name: function for name, function in written.items() if name not in found}
    for function in found.values():
        describe_tool(function)  # reports an invalid tool at the start, not at its first call
        if (
            not files
            and not hasattr(function, "tool_schema")
            and "folder" in inspect.signature(function).parameters
        ):
            raise AppError(
                f"tool '{function.__name__}' asks for 'folder', the work folder, "
                "which needs state.files in the YAML"
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
        tuple(watch),
    )
    _check_tables(app.schema_sql, documents or {})
    if app.watch:
        referenced_tables(app.schema_sql or "", app.watch)  # inherited by forked sessions
    return app


def is_document(reference: str) -> bool:
    """Return whether a reference in `tools` names an OpenAPI document."""
    return reference.partition(":")[0].endswith((".yaml", ".yml", ".json"))


def schema_sql(root: Path, schema: str | None, documents: Documents | None = None) -> str:
    """Return the SQL of all tables of an app: those of its schema, then those of its documents.

    Raises:
        AppError: If the schema cannot be read.
    """
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
    """Return the function that a reference names, or all tools of a file.

    A tool is a public function with a docstring, defined in the file itself.
    """
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


def load_module(path: str | Path) -> types.ModuleType:
    """Return the module in a Python file, executed once; see `modules.py` for its siblings.

    Raises:
        AppError: If there is no such file, or it fails on import.
    """
    path = Path(path).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise AppError(f"{path}: no such Python file")
    try:
        return import_file(path)
    except BaseException as error:
        raise AppError(f"{path}: cannot be imported:\n{tail_of(error)}") from None
