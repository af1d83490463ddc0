"""Tools from OpenAPI documents: simulated on tables, or replaced by Python functions."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import AppError
from .crud import Api, read_api
from .ddl import quoted
from .document import Operation, read_operations
from .store import operation_function


def read_documents(documents: Mapping[str, Any]) -> dict[str, Api]:
    """Return the operations and tables of each document, by file. Raises AppError.

    Args:
        documents: Parsed OpenAPI documents by file.
    """
    return {file: read_api(read_operations(document, file)) for file, document in documents.items()}


def document_functions(
    apis: Mapping[str, Api], references: Sequence[str], written: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    """Return the tools named by references such as `orders/openapi.yaml:get_order`.

    Args:
        references: Documents, optionally with `:operation`. A document alone means all operations.
        written: Python functions by name. A function with an operation's name replaces it.

    Raises:
        AppError: If an operation cannot be simulated and has no function, or a name is used twice.
    """
    functions: dict[str, Callable[..., Any]] = {}
    lost = []
    for reference in references:
        file = reference.partition(":")[0]
        for operation in selected(apis[file], reference):
            if operation.name in functions:
                raise AppError(
                    f"{reference}: a tool named '{operation.name}' already exists; "
                    "list the operations you want"
                )
            if operation.name in written:
                functions[operation.name] = written_function(operation, written[operation.name])
            elif operation.name in apis[file].crud:
                functions[operation.name] = operation_function(apis[file], operation)
            else:
                lost.append(_remedy(file, operation, apis[file]))
    if lost:
        raise AppError("\n".join(lost))
    return functions


def selected(api: Api, reference: str) -> list[Operation]:
    """Return all operations of a document, or the named one. Raises AppError."""
    file, colon, name = reference.partition(":")
    if not colon:
        return list(api.operations.values())
    if name not in api.operations:
        close = difflib.get_close_matches(name, api.operations, n=1)
        hint = (
            f", did you mean '{close[0]}'?"
            if close
            else f"; operations: {', '.join(api.operations)}"
        )
        raise AppError(f"{file}: no operation '{name}'{hint}")
    return [api.operations[name]]


def written_function(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a Python function that replaces an operation but keeps the operation's schema.

    Raises:
        AppError: If its parameters do not match the operation's arguments.
    """
    parameters = inspect.signature(function).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = operation.parameters["properties"]
    needed = operation.parameters["required"]
    wrong = [name for name in given if name not in parameters and not free]
    wrong += [
        name
        for name in given
        if name in parameters
        and name not in needed
        and parameters[name].default is inspect.Parameter.empty
    ]
    if wrong:
        where = f"{inspect.getsourcefile(function)}: '{operation.name}'"
        signature = ", ".join(
            ["db", *(name if name in needed else f"{name}=None" for name in given)]
        )
        stands = (
            f"replaces {operation.method.upper()} {operation.path} and must take '{wrong[0]}' "
            "as in the document"
        )
        raise AppError(f"{where} {stands}: def {operation.name}({signature})")

    @functools.wraps(function)
    def described(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    described.tool_schema = operation.schema  # type: ignore[attr-defined]
    return described


def _remedy(file: str, operation: Operation, api: Api) -> str:
    needed = operation.parameters["required"]
    arguments = [
        name if name in needed else f"{name}=None" for name in operation.parameters["properties"]
    ]
    others = (
        f"; or list only the operations you want, such as {file}:{next(iter(api.crud))}"
        if api.crud
        else ""
    )
    why = api.why_not[operation.name]
    return (
        f"{file}: {operation.name} ({operation.method.upper()} {operation.path}) cannot be "
        f"simulated: {why}. "
        f"Write def {operation.name}({', '.join(['db', *arguments])}) with a docstring in a .py "
        f"file listed in tools{others}"
    )


def check_tables(image: bytes, apis: Mapping[str, Api]) -> None:
    """Check that tables made by a schema file have the columns that the documents use.

    Raises:
        AppError: If a column is missing.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(image)
        for file, api in apis.items():
            for table, column in _missing(db, api):
                raise AppError(
                    f"{file}: table '{table}' of the schema file has no column '{column}', "
                    "which the document uses"
                )


def _missing(db: sqlite3.Connection, api: Api) -> Iterator[tuple[str, str]]:
    for table in api.tables.values():
        there = {row[1] for row in db.execute(f"PRAGMA table_info({quoted(table.name)})")}
        yield from ((table.name, column) for column in table.columns if column not in there)
