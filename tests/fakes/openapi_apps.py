"""OpenAPI document of a small library, and helpers that build apps from documents."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from envgym.sandbox import App
from envgym.sandbox.backends.none import InProcessSandbox

BOOK = {
    "type": "object",
    "required": ["id", "title", "kind", "pages", "lent", "added_at"],
    "properties": {
        "id": {"type": "string", "readOnly": True},
        "title": {"type": "string", "minLength": 1},
        "kind": {"type": "string", "enum": ["novel", "atlas"], "default": "novel"},
        "pages": {"type": "integer", "minimum": 1},
        "lent": {"type": "boolean", "default": False},
        "tags": {"type": "array", "items": {"type": "string"}},
        "author_id": {"type": "string", "nullable": True},
        "secret": {"type": "string", "writeOnly": True},
        "added_at": {"type": "string", "format": "date-time", "readOnly": True},
        "updated_at": {"type": "string", "format": "date-time", "readOnly": True},
    },
}
AUTHOR = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {"id": {"type": "string"}, "name": {"type": "string"}},
}
COPY = {
    "type": "object",
    "required": ["number", "shelf"],
    "properties": {"number": {"type": "integer", "readOnly": True}, "shelf": {"type": "string"}},
}


def ref(name: str) -> dict:
    return {"$ref": f"#/components/schemas/{name}"}


def many(schema: dict) -> dict:
    return {"type": "array", "items": schema}


def answers(schema: dict | None, status: str = "200") -> dict:
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    return {"responses": {status: {"description": "", **content}}}


def takes(schema: dict, *, required: bool = True) -> dict:
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }


def path(*names: str) -> dict:
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    }


def query(**schemas: dict) -> dict:
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()
        ]
    }


PATCH = {
    "type": "object",
    "properties": {name: BOOK["properties"][name] for name in ("title", "pages", "author_id")},
}
FILTERS = {
    "kind": {"type": "string"},
    "lent": {"type": "boolean"},
    "q": {"type": "string"},
    "sort": {"type": "string"},
    "limit": {"type": "integer", "default": 3},
    "page": {"type": "integer"},
}
LIBRARY = {
    "openapi": "3.0.3",
    "paths": {
        "/api/v1/books": {
            "get": {
                "operationId": "listBooks",
                "summary": "Books.",
                **query(**FILTERS),
                **answers(
                    {
                        "type": "object",
                        "properties": {"books": many(ref("Book")), "total": {"type": "integer"}},
                    }
                ),
            },
            "post": {
                "operationId": "addBook",
                "summary": "Add a\n book.",
                **takes(ref("Book")),
                **answers(ref("Book"), "201"),
            },
        },
        "/api/v1/books/{bookId}": {
            **path("bookId"),
            "get": {**answers(ref("Book"))},
            "put": {"operationId": "replaceBook", **takes(ref("Book")), **answers(ref("Book"))},
            "patch": {"operationId": "changeBook", **takes(PATCH), **answers(ref("Book"))},
            "delete": {"operationId": "dropBook", **answers(None, "204")},
        },
        "/api/v1/books/{bookId}/copies": {
            **path("bookId"),
            "get": {"operationId": "listCopies", **answers(many(ref("Copy")))},
            "post": {"operationId": "addCopy", **takes(ref("Copy")), **answers(ref("Copy"), "201")},
        },
        "/api/v1/books/{bookId}/copies/{number}": {
            "parameters": [
                *path("bookId")["parameters"],
                {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}},
            ],
            "get": {"operationId": "getCopy", **answers(ref("Copy"))},
        },
        "/api/v1/authors": {
            "post": {
                "operationId": "addAuthor",
                **takes(ref("Author")),
                **answers(ref("Author"), "201"),
            }
        },
        "/api/v1/authors/{id}": {
            **path("id"),
            "delete": {"operationId": "dropAuthor", **answers(ref("Author"))},
        },
        "/api/v1/authors/{id}/books": {
            **path("id"),
            "get": {"operationId": "booksOfAuthor", **answers(many(ref("Book")))},
        },
    },
    "components": {"schemas": {"Book": BOOK, "Author": AUTHOR, "Copy": COPY}},
}
SEED = """\
def fill(db, seed):
    db.execute("INSERT INTO authors VALUES ('A7', 'Ann')")
    for n, title in enumerate(("Rivers", "Hills", "Sea Hills", "Stars"), start=9):
        author = "A7" if n < 11 else None
        row = (f"B{n:03}", title, "novel", 100 + n, 0, author, "hush", "2026-01-01")
        columns = "id, title, kind, pages, lent, author_id, secret, added_at"
        db.execute(f"INSERT INTO books ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.execute("INSERT INTO book_copies (number, shelf, book_id) VALUES (4, 'left', 'B009')")
"""


def library(**paths: dict) -> dict:
    """Return the library's document with paths added or, if None, removed."""
    document = copy.deepcopy(LIBRARY)
    document["paths"] = {
        key: item for key, item in (document["paths"] | paths).items() if item is not None
    }
    return document


def app(
    folder: Path,
    document: dict | str = LIBRARY,
    *,
    tools: tuple[str, ...] = ("api.json",),
    seed: bool = True,
    **files: str,
) -> App:
    """Write an app from a document and further files (`more='...'` becomes more.py)."""
    (folder / "api.json").write_text(
        document if isinstance(document, str) else json.dumps(document)
    )
    (folder / "world.py").write_text(SEED)
    for name, text in files.items():
        (folder / (f"{name}.py" if name != "schema" else "schema.sql")).write_text(text)
    return App(
        folder,
        tools,
        "schema.sql" if "schema" in files else None,
        "world.py:fill" if seed else None,
    )


def tools_of(folder: Path, document: dict | str = LIBRARY, **more) -> dict[str, dict]:
    return {
        tool["name"]: tool for tool in InProcessSandbox(app(folder, document, **more)).describe()
    }
