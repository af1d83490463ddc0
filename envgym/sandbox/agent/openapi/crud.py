"""Classify the operations of an OpenAPI document as list, get, create, replace, update or delete.

`Api.why_not` holds the reason for every other operation; it completes "cannot be simulated: ...".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .document import Operation, snake
from .resources import (
    ITEM_KINDS,
    PAGING,
    SEARCHES,
    Collection,
    Table,
    chain_of,
    linking_column,
    list_shape,
    place_of,
    read_tables,
)


@dataclass(frozen=True)
class Step:
    """One collection along a path."""

    table: str
    parameter: str | None
    """Path parameter that selects an item. `None` at the end of a path to the whole collection."""
    link: str | None
    """Column of this table that refers to the parent item."""


@dataclass(frozen=True)
class Crud:
    """Operation on the tables."""

    kind: str
    """Kind: list, get, create, replace, update or delete."""
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Api:
    """OpenAPI document as operations and tables."""

    operations: dict[str, Operation]
    tables: dict[str, Table]
    crud: dict[str, Crud]
    why_not: dict[str, str]
    """Operation name to the reason why it cannot be simulated."""


def read_api(operations: Sequence[Operation]) -> Api:
    """Derive the tables and the table operation of each operation. Never raises."""
    collections: dict[str, Collection] = {}
    homes: dict[str, Collection] = {}
    for operation in operations:
        if chain := chain_of(operation.path):
            place = place_of(chain)
            home = homes[operation.name] = collections.setdefault(
                place, Collection((*chain[:-1], (chain[-1][0], None)))
            )
            (home.on_item if chain[-1][1] else home.on_all)[operation.method] = operation
    tables = read_tables(collections)
    crud = {}
    why_not = {}
    for operation in operations:
        found = _crud(operation, homes.get(operation.name), collections, tables)
        (crud if isinstance(found, Crud) else why_not)[operation.name] = found
    return Api({operation.name: operation for operation in operations}, tables, crud, why_not)


def _crud(
    operation: Operation,
    home: Collection | None,
    collections: dict[str, Collection],
    tables: dict[str, Table],
) -> Any:
    """Return a `Crud`, or the reason why the operation cannot be simulated."""
    if operation.problem:
        return operation.problem
    chain = chain_of(operation.path)
    if home is None or chain is None:
        return "its path does not alternate between collections and path parameters"
    steps = list(_steps(chain, collections, tables))
    if len(steps) < len(chain):
        word = chain[len(steps)][0]
        return f"'{word}' is not a collection: no operation lists it or returns its items"
    if any(
        tables[step.table].key is None
        for step, (_, parameter) in zip(steps, chain, strict=True)
        if parameter
    ):
        return "the schema has no property for the parameter in its path"
    kinds = ITEM_KINDS if chain[-1][1] else {"get": "list", "post": "create"}
    kind = kinds.get(operation.method)
    if kind is None:
        return (
            f"a {operation.method.upper()} on "
            f"{'an item' if chain[-1][1] else 'a whole collection'} has no standard meaning"
        )
    if kind == "list" and not list_shape(operation.response):
        return "its response is not a list of objects"
    table = tables[steps[-1].table]
    unknown = [word for word in _unknown(operation, kind, table)]
    return f"{unknown[0]} matches no column" if unknown else Crud(kind, tuple(steps))


def _steps(
    chain: Sequence[Any], collections: dict[str, Collection], tables: dict[str, Table]
) -> Iterator[Step]:
    before: Table | None = None
    for size, (_, parameter) in enumerate(chain, start=1):
        collection = collections.get(place_of(chain[:size]))
        if collection is None or not collection.table:
            return
        table = tables[collection.table]
        link = linking_column(table, before) if before else None
        if before and link is None:
            return
        yield Step(table.name, parameter, link.name if link else None)
        before = table


def _unknown(operation: Operation, kind: str, table: Table) -> Iterator[str]:
    """Yield the query parameters and body properties that match neither a column nor a keyword."""
    for places in operation.places.values():
        for place in places:
            known = snake(place.name) in (*SEARCHES, *PAGING) or table.column(place.name)
            if place.where == "query" and not (kind == "list" and known):
                yield f"the query parameter '{place.name}'"
            if place.where == "body" and place.name not in table.columns:
                yield (
                    f"the body's '{place.name}'"
                    if place.name
                    else "a body that is not an object with properties"
                )
