"""Which tables an OpenAPI document speaks of.

A collection is a path that ends in a word (`/orders`, `/orders/{id}/items`) and lists objects or has items below it
(`/orders/{id}`). It becomes a table: `orders`; `order_items` for one nested below orders, unless it holds the component of a
collection that has a table already (`/customers/{id}/orders`). `x-envgym-table` on a path names another one. Columns are the
properties of the item's schema, then those that only bodies have; the key is the property that the item's path names. A column
refers to another table where the path nests it, where its name says so (`customer_id`, `customerId`), or where
`x-envgym-references: customers` does.
Left out: single items wrapped in an envelope, many-to-many tables, keys of several columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .document import Operation, snake
from .schemas import COMPONENT, Schema

Chain = tuple[tuple[str, str | None], ...]
"""A path as its collections, each with the path parameter that picks an item of it."""

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
"""What may stand beside the list in an envelope."""
KINDS = {"string": "TEXT", "integer": "INTEGER", "number": "REAL", "boolean": "BOOLEAN"}
"""JSON type -> declared type of a column; lists, objects and what has no type are kept as JSON text."""
ITEM_KINDS = {"get": "get", "put": "replace", "patch": "update", "delete": "delete"}


@dataclass
class Column:
    name: str
    schema: Schema
    required: bool
    """Never NULL."""
    shown: bool
    """Stands in answers."""
    references: str | None = None
    cascade: bool = False
    """Goes with the row it refers to."""

    @property
    def kind(self) -> str:
        """Declared type in SQL."""
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
    """Column of the primary key; None for rows that no path names."""

    @property
    def noun(self) -> str:
        """What one row is called in an answer."""
        return singular(self.name).replace("_", " ")

    def column(self, name: str) -> Column | None:
        """The column of a name in any spelling: `orderId` finds `order_id`."""
        return self.columns.get(name) or next(
            (c for c in self.columns.values() if snake(c.name) == snake(name)), None
        )


@dataclass
class Collection:
    """A path that ends in a word, and the operations on it and on its items."""

    chain: Chain
    on_all: dict[str, Operation] = field(default_factory=dict)
    on_item: dict[str, Operation] = field(default_factory=dict)
    table: str = ""

    @property
    def operations(self) -> list[Operation]:
        return [*self.on_all.values(), *self.on_item.values()]

    def item_schema(self) -> Schema | None:
        """What one row looks like: as it is got, listed, answered or sent."""
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
        """The table that the document asks for."""
        return next(
            (
                str(o.extra["x-envgym-table"])
                for o in self.operations
                if "x-envgym-table" in o.extra
            ),
            None,
        )


def chain_of(path: str) -> Chain | None:
    """`/api/orders/{id}/items` as (("orders", "id"), ("items", None)); None for a path of another form."""
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
            return None  # /orders/{id}/archive/items: two words in a row, but for a prefix such as /api/v1
    return tuple(chain) or None


def place_of(chain: Sequence[tuple[str, str | None]]) -> str:
    return "/{}/".join(word for word, _ in chain)


def list_shape(response: Schema | None) -> tuple[str | None, Schema] | None:
    """(property that holds the list, schema of an item) of an answer that lists objects; None for any other answer.

    A list may stand in an envelope, an object with nothing beside it but words about pages, such as a total.
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
    parameters = [chain_of(operation.path)[-1][1] for operation in collection.on_item.values()]  # type: ignore[index]
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
    """The column through which a nested table refers to the one above."""
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
    """`order` of `orders`, `category` of `categories`, `address` of `addresses`."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    if re.search(r"(ss|x|ch|sh|us)es$", name):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us")) else name
