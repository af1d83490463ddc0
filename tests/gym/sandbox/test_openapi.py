"""An OpenAPI document becomes tools, typed arguments and tables; unsupported parts are errors."""

import copy
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.sandbox.agent import AppError, prepare_image
from envgym.sandbox.agent.openapi.crud import read_api
from envgym.sandbox.agent.openapi.ddl import schema_sql as tables_sql
from envgym.sandbox.agent.openapi.document import read_operations, tool_name
from envgym.sandbox.openapi.documents import read_document
from envgym.tools import Tool, render_compact, tools_from, validate
from tests.fakes.openapi_apps import (
    BOOK,
    LIBRARY,
    answers,
    library,
    many,
    path,
    query,
    ref,
    takes,
    tools_of,
)
from tests.gym.sandbox.openapi_documents import refused


def one(operation: dict, where: str = "/things", method: str = "get", **top) -> dict:
    return {"openapi": "3.1.0", "paths": {where: {method: operation}}, **top}


def described(document: dict) -> Tool:
    (operation,) = read_operations(document, "api.json")
    return Tool.from_schema(operation.schema)


# --- names and arguments ---


def test_a_tool_is_named_by_its_operation_or_else_by_method_and_path(tmp_path):
    assert list(tools_of(tmp_path)) == [
        "list_books",
        "add_book",
        "get_api_v1_books_book_id",
        "replace_book",
        "change_book",
        "drop_book",
        "list_copies",
        "add_copy",
        "get_copy",
        "add_author",
        "drop_author",
        "books_of_author",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("getHTTPStatus", "get_http_status"),
        ("orders.list-all", "orders_list_all"),
        ("import", "import_"),
        ("2fa", "_2fa"),
        ("日", "日"),
    ],
)
def test_a_name_is_one_that_python_can_say(text, name):
    assert tool_name(text) == name


def test_arguments_are_typed_and_what_only_the_server_writes_is_left_out(tmp_path):
    tool = tools_of(tmp_path)["add_book"]
    assert tool["description"] == "Add a book."
    assert list(tool["parameters"]["properties"]) == [
        "title",
        "kind",
        "pages",
        "lent",
        "tags",
        "author_id",
        "secret",
    ]
    assert tool["parameters"]["required"] == ["title", "kind", "pages", "lent"]
    assert tool["parameters"]["properties"]["kind"] == {
        "type": "string",
        "enum": ["novel", "atlas"],
        "default": "novel",
    }
    assert tool["parameters"]["properties"]["author_id"] == {"type": ["string", "null"]}


def test_the_prompt_shows_an_operation_as_a_signature(tmp_path):
    shown = render_compact(tools_from(tools_of(tmp_path).values()).values()).splitlines()
    assert (
        shown[4]
        == "change_book(bookId: str, title: str = ..., pages: int = ..., author_id: str|None = ...)"
    )


def test_bounds_and_choices_of_the_document_are_checked_before_the_call(tmp_path):
    tool = Tool.from_schema(tools_of(tmp_path)["change_book"])
    assert validate(tool, {"bookId": "B009", "pages": 0}) == ["pages must be at least 1, got 0"]
    assert validate(tool, {"bookId": "B009", "author_id": None}) == []
    assert validate(tool, {"pages": 3}) == ["missing argument 'bookId' (str)"]


def test_a_patch_promises_no_defaults_for_what_it_leaves_alone(tmp_path):
    body = {"type": "object", "properties": {"kind": BOOK["properties"]["kind"]}}
    tool = described(
        one(
            {**takes(body), **answers(ref("Book"))},
            "/books",
            "patch",
            components=LIBRARY["components"],
        )
    )
    assert "default" not in tool.properties["kind"]


def test_the_words_of_openapi_3_0_become_json_schema():
    schema = {
        "type": "integer",
        "nullable": True,
        "enum": [1, 2],
        "minimum": 0,
        "exclusiveMinimum": True,
    }
    tool = described(one(query(size=schema)))
    assert tool.properties["size"] == {
        "type": ["integer", "null"],
        "enum": [1, 2, None],
        "exclusiveMinimum": 0,
    }


def test_all_of_is_one_object_and_a_schema_within_itself_ends():
    node = {"type": "object", "properties": {"name": {"type": "string"}, "below": ref("Node")}}
    both = {
        "allOf": [ref("Node"), {"required": ["size"], "properties": {"size": {"type": "integer"}}}]
    }
    tool = described(one(takes(both), method="post", components={"schemas": {"Node": node}}))
    assert list(tool.properties) == ["size", "name", "below"]
    assert tool.required == ("size",)


def test_a_name_in_path_and_body_is_one_argument_and_in_query_and_body_two():
    body = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "db": {}, "limit": {}, "x-y": {}, "class": {}},
    }
    operation = {**path("id"), **takes(body)}
    operation["parameters"] = [
        *operation["parameters"],
        *query(limit={"type": "integer"})["parameters"],
    ]
    tool = described(one(operation, "/things/{id}", "put"))
    assert list(tool.properties) == ["id", "limit", "db_", "body_limit", "x_y", "class_"]


def test_a_body_that_is_no_plain_object_is_one_argument_and_a_required_header_another():
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "schema": {"type": "string"},
    }
    optional = {"name": "X-Trace", "in": "header", "schema": {"type": "string"}}
    operation = {"parameters": [header, optional], **takes(many({"type": "integer"}))}
    assert described(one(operation, method="post")).parameters["required"] == [
        "Idempotency_Key",
        "body",
    ]


# --- invalid documents ---


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"swagger": "2.0"}, "Swagger 2; convert it first"),
        ([], "must be an OpenAPI 3 document"),
        ({"openapi": "3.0.0", "paths": {}}, "has no operation under `paths`"),
        (
            one({"parameters": [{"$ref": "other.yaml#/x"}]}),
            "refers to 'other.yaml#/x' in another file; bundle the document",
        ),
        (
            one({"parameters": [{"$ref": "#/nowhere"}]}),
            "refers to '#/nowhere', which does not exist",
        ),
        (one({}, "/things/{id}"), "GET /things/{id}: does not declare its path parameter 'id'"),
        (one({"parameters": [{}]}), "is not valid OpenAPI 3"),
        ("openapi: [", "not valid YAML"),
        ("a: &a [*a]", "the alias *a is inside of its own anchor"),
    ],
)
def test_a_wrong_document_is_told_by_its_file(tmp_path, document, told):
    message = refused(tmp_path, document, seed=False)
    assert "api.json" in message
    assert told in message


def test_two_operations_of_one_name_are_told_with_their_paths(tmp_path):
    document = library(
        **{"/x": {"get": {"operationId": "list_books", **answers(many(ref("Book")))}}}
    )
    assert "GET /api/v1/books and GET /x are both named 'list_books'" in refused(tmp_path, document)


def test_yaml_is_read_as_openapi_asks(tmp_path):
    (tmp_path / "api.yaml").write_text(
        "a: no\nb: 12:30\nc: 2026-01-05\nd: 010\ne: 1e3\nf: true\ng: -4\nh:\ni: ''\n200: x\n"
    )
    assert read_document(tmp_path / "api.yaml") == {
        "a": "no",
        "b": "12:30",
        "c": "2026-01-05",
        "d": "010",
        "e": 1000.0,
        "f": True,
        "g": -4,
        "h": None,
        "i": "",
        "200": "x",
    }


SOUP = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = [
    ("paths", "/api/v1/books"),
    ("paths", "/api/v1/books", "get"),
    ("paths", "/api/v1/books/{bookId}", "put", "requestBody"),
    ("components", "schemas", "Book"),
    ("components", "schemas", "Book", "properties"),
    ("components", "schemas", "Book", "properties", "pages"),
    ("components", "schemas", "Copy", "required"),
    ("components", "schemas", "Book", "properties", "kind", "enum"),
    ("paths", "/api/v1/books", "get", "parameters"),
]


@settings(max_examples=120, deadline=None)
@given(place=st.sampled_from(PLACES), value=SOUP)
def test_whatever_stands_in_a_document_it_is_read_or_refused_in_words(place, value):
    document = copy.deepcopy(LIBRARY)
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    try:
        api = read_api(read_operations(document, "api.json"))
        prepare_image(tables_sql(api), None, 0)
    except AppError:
        pass


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="{}/"), min_size=1, max_size=6)
KINDS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": 2},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": ["a'b", 3]},
        {"type": "array", "items": {}},
        {"type": ["string", "null"]},
        {},
    ]
)


@settings(max_examples=150, deadline=None)
@given(properties=st.dictionaries(NAMES, KINDS, max_size=5), collection=NAMES)
def test_any_names_of_properties_make_a_table_that_sqlite_takes(properties, collection):
    properties = {name: kind for name, kind in properties.items() if name.lower() != "id"} | {
        "id": {"type": "string"}
    }
    if len({name.lower() for name in properties}) < len(properties) or "\0" in "".join(properties):
        return  # SQLite column names are case-insensitive
    schema = {"type": "object", "required": list(properties), "properties": properties}
    document = one(answers(many(schema)), f"/{collection}")
    (table,) = read_api(read_operations(document, "api.json")).tables.values()
    sql = tables_sql(read_api(read_operations(document, "api.json")))
    with sqlite3.connect(":memory:") as db:
        db.executescript(sql)
        assert [
            row[1] for row in db.execute("SELECT * FROM pragma_table_info(?)", (table.name,))
        ] == list(properties)
