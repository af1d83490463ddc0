"""Tables of an OpenAPI document, and operations that cannot be simulated."""

import json

import pytest

from envgym.errors import SpecError
from envgym.rewards.state_diff import primary_keys
from envgym.sandbox import App
from envgym.sandbox.agent.openapi.resources import singular
from envgym.sandbox.backends.none import InProcessSandbox
from envgym.sandbox.openapi.documents import read_document, schema_sql
from envgym.spec.environment import load_spec
from tests.fakes.openapi_apps import (
    LIBRARY,
    answers,
    app,
    library,
    many,
    path,
    query,
    ref,
    takes,
    tools_of,
)
from tests.gym.sandbox.openapi_documents import refused

# --- tables ---


def test_paths_and_schemas_become_tables_with_keys_and_references(tmp_path):
    sql = schema_sql(app(tmp_path))
    assert primary_keys(sql) == {"books": ("id",), "authors": ("id",), "book_copies": ("number",)}
    assert '"author_id" TEXT REFERENCES "authors" ("id")' in sql
    assert '"book_id" TEXT NOT NULL REFERENCES "books" ("id") ON DELETE CASCADE' in sql
    assert "\"kind\" TEXT NOT NULL CHECK (\"kind\" IN ('novel', 'atlas'))" in sql
    assert '"pages" INTEGER NOT NULL CHECK ("pages" >= 1)' in sql


def test_x_fields_name_a_table_and_what_a_column_refers_to(tmp_path):
    properties = {
        "id": {"type": "string"},
        "writer": {"type": "string", "x-envgym-references": "authors"},
    }
    essay = {"type": "object", "properties": properties}
    document = library(
        **{
            "/essays": {
                "x-envgym-table": "papers",
                "get": {"operationId": "essays", **answers(many(essay))},
            }
        }
    )
    sql = schema_sql(app(tmp_path, document))
    assert '"papers"' in sql
    assert '"writer" TEXT REFERENCES "authors" ("id")' in sql


@pytest.mark.parametrize(
    ("many_of", "single"),
    [
        ("orders", "order"),
        ("categories", "category"),
        ("addresses", "address"),
        ("boxes", "box"),
        ("statuses", "status"),
        ("status", "status"),
        ("staff", "staff"),
        ("series", "sery"),
    ],
)
def test_a_table_has_a_singular(many_of, single):
    assert singular(many_of) == single


def test_a_schema_file_may_make_a_table_itself_but_must_have_its_columns(tmp_path):
    own = "CREATE TABLE authors (id TEXT PRIMARY KEY, name TEXT, born INTEGER);"
    assert "born" in schema_sql(app(tmp_path, schema=own, seed=False))
    tools_of(tmp_path, schema=own, seed=False)
    message = refused(tmp_path, LIBRARY, schema=own.replace("name TEXT, ", ""), seed=False)
    assert (
        message == "api.json: table 'authors' of the schema file has no column 'name',"
        " which the document uses"
    )


# --- operations that the store cannot simulate ---


REFUND = {
    "/api/v1/books/{bookId}/refund": {
        **path("bookId"),
        "post": {
            "operationId": "refund",
            **takes(
                {"properties": {"amount": {"type": "integer"}, "why": {}}, "required": ["amount"]}
            ),
        },
    }
}


def test_an_operation_that_is_no_work_on_a_table_is_refused_with_the_remedy(tmp_path):
    assert refused(tmp_path, library(**REFUND)) == (
        "api.json: refund (POST /api/v1/books/{bookId}/refund) cannot be simulated:"
        " 'refund' is not a collection: no operation "
        "lists it or returns its items. Write def refund(db, bookId, amount, why=None)"
        " with a docstring in a .py file listed in tools; "
        "or list only the operations you want, such as api.json:list_books"
    )


def test_all_that_cannot_be_simulated_is_told_at_once(tmp_path):
    more = {
        "/api/v1/books": {
            "delete": {"operationId": "burn"},
            "get": LIBRARY["paths"]["/api/v1/books"]["get"],
        },
        "/login": {"post": {"operationId": "login", **takes({"properties": {"name": {}}})}},
    }
    lines = refused(tmp_path, library(**REFUND, **more)).splitlines()
    assert [line.split(" ")[1] for line in lines] == ["burn", "refund", "login"]


@pytest.mark.parametrize(
    ("added", "why"),
    [
        (
            {"get": {**query(colour={"type": "string"}), **answers(many(ref("Book")))}},
            "the query parameter 'colour' matches no column",
        ),
        (
            {"get": answers({"type": "object", "properties": {"open": {"type": "boolean"}}})},
            "is not a collection",
        ),
        (
            {"post": {"requestBody": {"content": {"multipart/form-data": {}}}}},
            "its body is multipart/form-data",
        ),
    ],
)
def test_the_reason_is_in_plain_words(tmp_path, added, why):
    assert why in refused(tmp_path, library(**{"/extra": added}))


def test_a_python_function_stands_in_and_the_document_still_describes_it(tmp_path):
    source = (
        'def refund(db, now, bookId, amount, why=""):\n    """Pay back."""\n'
        '    return f"{bookId} {amount} {why} {now}"\n'
    )
    the_app = app(tmp_path, library(**REFUND), tools=("api.json", "more.py"), more=source)
    sandbox = InProcessSandbox(the_app)
    tool = next(tool for tool in sandbox.describe() if tool["name"] == "refund")
    assert tool["parameters"]["required"] == ["bookId", "amount"]
    session = sandbox.open(seed=1, timeout_seconds=20)
    result = session.call("refund", {"bookId": "B009", "amount": 3}, now="2026", timeout_seconds=20)
    assert result.text == "B009 3  2026"


@pytest.mark.parametrize("signature", ["db, bookId", "db, bookId, amount, why"])
def test_a_function_that_does_not_take_what_the_document_says_is_refused(tmp_path, signature):
    source = f'def refund({signature}):\n    """Pay back."""\n'
    message = refused(tmp_path, library(**REFUND), tools=("api.json", "more.py"), more=source)
    assert "more.py: 'refund' replaces POST /api/v1/books/{bookId}/refund and must take" in message
    assert message.endswith("def refund(db, bookId, amount, why=None)")


def test_only_the_named_operations_are_tools_and_a_wrong_name_gets_a_hint(tmp_path):
    document = library(**REFUND)
    assert list(
        tools_of(tmp_path, document, tools=("api.json:add_book", "api.json:list_books"))
    ) == ["add_book", "list_books"]
    assert "api.json: no operation 'ad_book', did you mean 'add_book'?" in refused(
        tmp_path, document, tools=("api.json:ad_book",)
    )


def test_a_document_that_is_not_there_is_told_with_the_line_of_the_yaml(tmp_path):
    (tmp_path / "tasks.py").touch()
    (tmp_path / "x.yaml").write_text("id: a/x-v0\ntools: [api.yaml]\ntasks: {from: tasks.py}\n")
    with pytest.raises(SpecError, match=r"x.yaml:2: tools: no such file: .*api.yaml"):
        load_spec(tmp_path / "x.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        InProcessSandbox(App(tmp_path, ("api.yaml",)))


def test_a_json_document_is_read_as_well_as_a_yaml_one(tmp_path):
    (tmp_path / "api.yaml").write_text(json.dumps(LIBRARY))
    assert read_document(tmp_path / "api.yaml") == LIBRARY
