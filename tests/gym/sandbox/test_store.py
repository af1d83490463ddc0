"""The simulated store answers like an API server in every sandbox and writes to the tables."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.backends.none import InProcessSandbox
from tests.fakes.kiosk_app import EVERY, NOW, call, options
from tests.fakes.openapi_apps import answers, app, library, many, path, ref, takes


@pytest.fixture(scope="module", params=EVERY)
def everywhere(request, tmp_path_factory):
    sandbox = open_sandbox(app(tmp_path_factory.mktemp("library")), options(request.param))
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return InProcessSandbox(app(tmp_path_factory.mktemp("library")))


@pytest.fixture
def session(here):
    session = here.open(seed=1, timeout_seconds=20)
    yield session
    session.close()


def told(session, tool: str, **arguments):
    result = call(session, tool, **arguments)
    assert result.ok, result.text
    return result.text if result.text == "Done." else json.loads(result.text)


def refusal(session, tool: str, **arguments) -> str:
    before = session.diff(timeout_seconds=20)
    result = call(session, tool, **arguments)
    assert not result.ok, result.text
    assert session.diff(timeout_seconds=20) == before
    return result.text


def titles(session, **filters) -> list[str]:
    return [book["title"] for book in told(session, "list_books", **filters)["books"]]


BOOK = {"title": "Moon", "kind": "atlas", "pages": 5, "lent": True}


def test_a_row_is_made_read_changed_and_deleted_in_every_sandbox(everywhere):
    session = everywhere.open(seed=1, timeout_seconds=20)
    made = told(session, "add_book", **BOOK, tags=["a", "ü"], author_id="A7", secret="s")
    assert made == {
        "id": "B013",
        **BOOK,
        "tags": ["a", "ü"],
        "author_id": "A7",
        "added_at": NOW,
        "updated_at": NOW,
    }
    assert told(session, "get_api_v1_books_book_id", bookId="B013") == made
    assert told(session, "change_book", bookId="B009", pages=7)["pages"] == 7
    assert told(session, "drop_book", bookId="B012") == "Done."
    assert refusal(session, "get_api_v1_books_book_id", bookId="B012") == "no book 'B012'"
    changes = session.diff(timeout_seconds=20)
    assert list(changes) == ["books"]
    assert [row["id"] for row in changes["books"]["added"]] == ["B009", "B013"]
    assert [row["id"] for row in changes["books"]["removed"]] == ["B009", "B012"]
    (made_row,) = [row for row in changes["books"]["added"] if row["id"] == "B013"]
    assert (made_row["lent"], made_row["tags"], made_row["secret"]) == (1, '["a", "ü"]', "s")
    session.close()


def test_every_sandbox_describes_the_operations_alike(everywhere, here):
    assert everywhere.describe() == here.describe()


def test_a_list_filters_searches_sorts_and_pages(session):
    assert titles(session) == ["Rivers", "Hills", "Sea Hills"]  # the document's default limit
    assert titles(session, q="hill") == ["Hills", "Sea Hills"]
    assert titles(session, sort="-title", limit=2, page=2) == ["Rivers", "Hills"]
    assert titles(session, kind="atlas") == titles(session, lent=True) == []
    assert told(session, "list_books", limit=1)["total"] == 4
    assert "cannot sort by 'colour'; sort by id, title" in refusal(
        session, "list_books", sort="colour"
    )


def test_the_text_of_a_search_is_text(session):
    assert titles(session, q="%") == titles(session, q="' OR 1=1 --") == []


def test_a_nested_path_means_rows_below_its_item(session):
    assert told(session, "list_copies", bookId="B009") == [{"number": 4, "shelf": "left"}]
    assert told(session, "list_copies", bookId="B010") == []
    assert told(session, "add_copy", bookId="B010", shelf="right") == {
        "number": 5,
        "shelf": "right",
    }
    assert told(session, "get_copy", bookId="B010", number=5)["shelf"] == "right"
    assert (
        refusal(session, "get_copy", bookId="B009", number=5)
        == "no book copy 5 with book_id 'B009'"
    )
    assert refusal(session, "add_copy", bookId="B999", shelf="x") == "no book 'B999'"
    assert [book["id"] for book in told(session, "books_of_author", id="A7")] == ["B009", "B010"]


def test_a_put_replaces_and_a_patch_changes_what_it_names(session):
    told(session, "add_book", **BOOK, tags=["x"], author_id="A7")
    assert told(session, "change_book", bookId="B013", title="Sun")["tags"] == ["x"]
    replaced = told(session, "replace_book", bookId="B013", **BOOK)
    assert (replaced["title"], replaced["tags"], replaced["author_id"], replaced["added_at"]) == (
        "Moon",
        None,
        None,
        NOW,
    )
    assert (
        refusal(session, "change_book", bookId="B013")
        == "nothing to change; takes title, pages, author_id"
    )


def test_what_does_not_fit_the_tables_is_refused_in_words(session):
    assert refusal(session, "add_author", id="A7", name="Bo") == "author 'A7' is there already"
    assert (
        refusal(session, "change_book", bookId="B009", author_id="A9")
        == "author_id: no author 'A9'"
    )
    assert refusal(session, "drop_author", id="A7") == "author 'A7' is in use by book 'B009'"
    assert (
        refusal(session, "change_book", bookId="B009", pages=2**70)
        == "a number for book is too large"
    )
    assert "CHECK constraint failed" in refusal(session, "change_book", bookId="B009", pages=0)


def test_rows_below_a_deleted_one_go_with_it_and_the_rest_stays(session):
    told(session, "drop_book", bookId="B009")
    changes = session.diff(timeout_seconds=20)
    assert {table: len(change["removed"]) for table, change in changes.items()} == {
        "books": 1,
        "book_copies": 1,
    }
    told(session, "drop_book", bookId="B010")
    assert told(session, "drop_author", id="A7") == {"id": "A7", "name": "Ann"}


def test_siblings_that_do_the_same_see_the_same(here):
    def ids() -> list[str]:
        session = here.open(seed=1, timeout_seconds=20)
        return [told(session, "add_book", **BOOK)["id"] for _ in range(3)]

    assert ids() == ids() == ["B013", "B014", "B015"]


def test_ids_begin_somewhere_in_empty_tables(tmp_path):
    kept = {
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "string", "format": "uuid", "readOnly": True}},
    }
    document = library(
        **{
            "/kept": {
                "post": {
                    "operationId": "keep",
                    **takes({"properties": {"x": {}}}),
                    **answers(kept),
                },
                "get": {"operationId": "kept", **answers(many(kept))},
            }
        }
    )
    session = InProcessSandbox(app(tmp_path, document, seed=False)).open(seed=1, timeout_seconds=20)
    assert told(session, "add_book", **BOOK)["id"] == "B1"
    assert told(session, "add_copy", bookId="B1", shelf="x")["number"] == 1
    made = [told(session, "keep", x=n)["id"] for n in range(2)]
    assert len({*made}) == 2
    assert all(len(one) == 36 for one in made)


def test_what_only_the_server_knows_is_filled_in(tmp_path):
    job = {
        "type": "object",
        "required": ["id", "state", "tries", "who", "day"],
        "properties": {
            "id": {"type": "integer", "readOnly": True},
            "state": {"type": "string", "enum": ["new", "done"], "readOnly": True},
            "tries": {"type": "integer", "readOnly": True},
            "who": {"type": "string", "default": "ann"},
            "day": {"type": "string", "format": "date", "readOnly": True},
            "words": {"type": "string"},
        },
    }
    body = {"type": "object", "properties": {"words": {"type": "string"}}}
    document = library(
        **{
            "/jobs": {"post": {"operationId": "start", **takes(body), **answers(job)}},
            "/jobs/{id}": {**path("id"), "get": {"operationId": "job", **answers(job)}},
        }
    )
    session = InProcessSandbox(app(tmp_path, document, seed=False)).open(seed=1, timeout_seconds=20)
    assert told(session, "start", words="w") == {
        "id": 1,
        "state": "new",
        "tries": 0,
        "who": "ann",
        "day": NOW[:10],
        "words": "w",
    }


TEXTS = st.text(max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    title=TEXTS,
    tags=st.lists(TEXTS, max_size=3),
    lent=st.booleans(),
    pages=st.integers(1, 2**63 - 1),
)
def test_what_is_sent_comes_back_as_it_was(here, title, tags, lent, pages):
    session = here.open(seed=1, timeout_seconds=20)
    sent = {"title": title, "tags": tags, "lent": lent, "pages": pages, "kind": "atlas"}
    made = told(session, "add_book", **sent)
    assert {
        name: told(session, "get_api_v1_books_book_id", bookId=made["id"])[name] for name in sent
    } == sent
    session.close()


def test_another_name_of_a_collection_is_the_same_table(tmp_path):
    document = library(
        **{"/archive": {"get": {"operationId": "archive", **answers(many(ref("Book")))}}}
    )
    session = InProcessSandbox(app(tmp_path, document)).open(seed=1, timeout_seconds=20)
    assert len(told(session, "archive")) == 4
