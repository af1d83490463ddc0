"""Derive database tables from the paths and schemas of an OpenAPI document.

A collection is a path that ends in a literal segment (`/orders`, `/orders/{id}/items`) and lists
objects or has item paths (`/orders/{id}`). `_table_name` names its table: `orders`, or
`order_items` if it is nested below orders. `_add_columns` takes the properties of the item schema,
then those that only request bodies have; `_key` takes the property named by the item path. `_link`
and `_refer` find references: nesting, names such as `customer_id`, or `x-envgym-references`. Not
supported: single items in an envelope, many-to-many tables, composite keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .document import Operation, snake
from .schemas import COMPONENT, Schema

Chain = tuple[tuple[str, str | None], ...]
"""A path as (collection, path parameter that selects an item of it) pairs."""

SEARCHES = ("q", "query", "search")
LIMITS = ("limit", "page_size", "per_page")
PAGING = (*LIMITS, "offset", "page", "sort")
COUNTS = ("total", "count", "total_count")
ENVELOPE = (
    *COUNTS,
    *PAGING,
    "pages",
    "has_more",
    "next",
    "previous",
    "cursor",
    "next_cursor",
    "next_page",
    "meta",
    "links",
    "object",
)
"""Properties that may accompany the list in a response envelope."""
KINDS = {"string": "TEXT", "integer": "INTEGER", "number": "REAL", "boolean": "BOOLEAN"}
"""JSON type to SQL column type. Arrays, objects and untyped values are stored as JSON text."""
ITEM_KINDS = {"get": "get", "put": "replace", "patch": "update", "delete": "delete"}


@dataclass
class Column:
    name: str
    schema: Schema
    required: bool
    """The column is NOT NULL."""
    shown: bool
    """Responses include the column."""
    references: str | None = None
    cascade: bool = False
    """A row is deleted together with the row it refers to."""

    @property
    def kind(self) -> str:
        """SQL type of the column, or BOOLEAN or JSON, which `ddl.py` and `cells.py` convert."""
        kinds = self.schema.get("type")
        named = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
        return KINDS.get(str(named[0]), "JSON") if len(named) == 1 else "JSON"

    @property
    def read_only(self) -> bool:
        return bool(self.schema.get("readOnly"))


@dataclass
class Table:
    name: str
    columns: dict[str, Column] = field(default_factory=dict)
    key: str | None = None
    """Primary key column. `None` if no path selects single rows."""

    @property
    def noun(self) -> str:
        """Noun for one row in messages to the model."""
        return singular(self.name).replace("_", " ")

    def column(self, name: str) -> Column | None:
        """Return the column with this name in any spelling: `orderId` finds `order_id`."""
        return self.columns.get(name) or next(
            (c for c in self.columns.values() if snake(c.name) == snake(name)), None
        )


@dataclass
class Collection:
    """Collection path with the operations on it and on its items."""

    chain: Chain
    on_all: dict[str, Operation] = field(default_factory=dict)
    on_item: dict[str, Operation] = field(default_factory=dict)
    table: str = ""

    @property
    def operations(self) -> list[Operation]:
        return [*self.on_all.values(), *self.on_item.values()]

    def item_schema(self) -> Schema | None:
        """Return the schema of one row.

        Uses the first response or body with properties: get, list, put or patch, post, then bodies.
        """
        listed = list_shape(self.on_all["get"].response) if "get" in self.on_all else None
        answers = [
            *self._responses("get"),
            *([listed[1]] if listed else []),
            *self._responses("put", "patch"),
            *[o.response for m, o in self.on_all.items() if m == "post"],
        ]
        bodies = [operation.body for operation in self.operations]
        return next(
            (schema for schema in (*answers, *bodies) if schema and schema.get("properties")), None
        )

    def _responses(self, *methods: str) -> list[Schema | None]:
        return [self.on_item[method].response for method in methods if method in self.on_item]

    def is_resource(self) -> bool:
        listed = "get" in self.on_all and list_shape(self.on_all["get"].response)
        on_item = [method for method in ITEM_KINDS if method in self.on_item]
        return bool(listed or on_item or self.named()) and self.item_schema() is not None

    def named(self) -> str | None:
        """Return the table name requested by `x-envgym-table`, or None."""
        return next(
            (
                str(o.extra["x-envgym-table"])
                for o in self.operations
                if "x-envgym-table" in o.extra
            ),
            None,
        )


def chain_of(path: str) -> Chain | None:
    """Parse `/api/orders/{id}/items` into (("orders", "id"), ("items", None)).

    Returns `None` if the path does not alternate between collections and path parameters.
    """
    parts = [part for part in path.split("/") if part]
    chain: list[tuple[str, str | None]] = []
    for index, part in enumerate(parts):
        following = parts[index + 1] if index + 1 < len(parts) else ""
        if "{" in part:
            if not re.fullmatch(r"{[^{}]+}", part) or index == 0 or "{" in parts[index - 1]:
                return None
        elif "{" in following:
            chain.append((part, following.strip("{}")))
        elif not following:
            chain.append((part, None))
        elif chain:
            # Two literal segments in a row are only allowed as a prefix such as /api/v1.
            return None
    return tuple(chain) or None


def place_of(chain: Sequence[tuple[str, str | None]]) -> str:
    return "/{}/".join(word for word, _ in chain)


def list_shape(response: Schema | None) -> tuple[str | None, Schema] | None:
    """Return (property that holds the list, schema of an item) of a response that lists objects.

    The property is `None` if the response is the list itself. The list may also be in an envelope,
    an object with only paging properties beside it, such as a total. Returns `None` for other
    responses.
    """
    if not response:
        return None
    if (response.get("items") or {}) and response["items"].get("properties"):
        return None, response["items"]
    properties = response.get("properties", {})
    names = [name for name in properties if snake(name) not in ENVELOPE]
    inner = properties[names[0]].get("items") if len(names) == 1 else None
    return (names[0], inner) if isinstance(inner, dict) and inner.get("properties") else None


# --- tables ---


def read_tables(collections: dict[str, Collection]) -> dict[str, Table]:
    """Return the tables of all collections, by name.

    For example, `GET /orders` lists {id, customer_id, total} and `GET /orders/{id}/items` lists
    {id, sku}. The tables are `orders` (id, customer_id, total) and `order_items` (id, sku,
    order_id). `order_id` refers to `orders`, and its rows are deleted with their order. If the
    document has a collection `/customers`, `customer_id` refers to its table.
    """
    tables: dict[str, Table] = {}
    components: dict[str, str] = {}
    nested: list[tuple[Collection, bool]] = []
    for collection in sorted(collections.values(), key=lambda collection: len(collection.chain)):
        schema = collection.item_schema()
        if not collection.is_resource() or schema is None:
            continue
        name = (
            collection.named()
            or components.get(schema.get(COMPONENT, ""))
            or _table_name(collection, collections)
        )
        if COMPONENT in schema:
            components.setdefault(schema[COMPONENT], name)
        collection.table = name
        table = tables.setdefault(name, Table(name))
        owned = not table.columns
        _add_columns(table, collection, schema)
        table.key = table.key or _key(table, collection)
        nested += [(collection, owned)] if len(collection.chain) > 1 else []
    for collection, owned in nested:
        _link(collection, owned, collections, tables)
    for table in tables.values():
        _refer(table, tables)
    return tables


def _table_name(collection: Collection, collections: dict[str, Collection]) -> str:
    above = _above(collection, collections)
    name = snake(collection.chain[-1][0]) or "rows"
    return f"{singular(above.table)}_{name}" if above and above.table else name


def _above(collection: Collection, collections: dict[str, Collection]) -> Collection | None:
    return collections.get(place_of(collection.chain[:-1])) if len(collection.chain) > 1 else None


def _add_columns(table: Table, collection: Collection, schema: Schema) -> None:
    for name, inner in schema["properties"].items():
        sure = name in schema.get("required", ()) and "null" not in (inner.get("type") or ())
        table.columns.setdefault(name, Column(name, inner, sure, shown=not inner.get("writeOnly")))
    bodies = [
        o.body for o in collection.operations if o.body and o.method in ("post", "put", "patch")
    ]
    for body in bodies:
        for name, inner in (body.get("properties") or {}).items():
            table.columns.setdefault(name, Column(name, inner, required=False, shown=False))


def _key(table: Table, collection: Collection) -> str | None:
    chains = [chain_of(operation.path) for operation in collection.on_item.values()]
    parameters = [chain[-1][1] for chain in chains]  # type: ignore[index]
    for parameter in [parameter for parameter in parameters if parameter]:
        own = snake(parameter) in ("id", f"{singular(snake(collection.chain[-1][0]))}_id")
        for name in ("id", parameter) if own else (parameter, "id"):
            if column := table.column(name):
                return column.name
    return "id" if not parameters and "id" in table.columns else None


def _link(
    collection: Collection,
    owned: bool,
    collections: dict[str, Collection],
    tables: dict[str, Table],
) -> None:
    """Find or add the column through which a nested table refers to its parent table."""
    above = _above(collection, collections)
    if above is None or not above.table or tables[above.table].key is None:
        return
    parent = tables[above.table]
    table = tables[collection.table]
    column = linking_column(table, parent)
    if column is None:
        key = parent.columns[parent.key or ""]
        name = f"{singular(parent.name)}_{snake(key.name)}"
        column = table.columns[name] = Column(
            name, {"type": key.schema.get("type", "string")}, owned, shown=False
        )
    column.references = parent.name
    column.cascade = owned
    column.required = column.required or owned


def linking_column(table: Table, parent: Table) -> Column | None:
    for column in table.columns.values():
        if (
            column.schema.get("x-envgym-references") == parent.name
            or column.references == parent.name
        ):
            return column
    return table.column(f"{singular(parent.name)}_id") or table.column(
        f"{singular(parent.name)}_{parent.key}"
    )


def _refer(table: Table, tables: dict[str, Table]) -> None:
    by_singular = {singular(name): name for name, other in tables.items() if other.key}
    for column in table.columns.values():
        asked = str(column.schema.get("x-envgym-references"))
        stem = snake(column.name).removesuffix("_id") if snake(column.name).endswith("_id") else ""
        target = asked if asked in tables and tables[asked].key else by_singular.get(stem)
        if column.references is None and target and column.name != table.key:
            column.references = target


def singular(name: str) -> str:
    """Return the singular of an English plural: `categories` gives `category`."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    if re.search(r"(ss|x|ch|sh|us)es$", name):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us")) else name
