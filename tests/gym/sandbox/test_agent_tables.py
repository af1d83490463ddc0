"""The agent's tables: differences between states, and calls as transactions."""

import sqlite3
from typing import Any

import pytest

from envgym.sandbox.agent import (
    AppError,
    Desk,
    load_app,
    prepare_image,
)
from envgym.sandbox.agent.tables import Images
from tests.fakes.kiosk_app import KIOSK, NOW
from tests.gym.sandbox.agent_files import write

# --- tables ---


SCHEMA = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, price REAL, data BLOB);
CREATE TABLE bag (word TEXT);
CREATE TABLE pairs (a TEXT, b TEXT, n INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE "odd ""name" (rowid TEXT, "select" TEXT);
CREATE VIEW v AS SELECT * FROM t;
"""


def fill(db, seed):
    db.executemany(
        "INSERT INTO t VALUES (?, ?, ?, ?)", [(n, f"name {n}", n, b"\x00\xff") for n in range(1, 4)]
    )
    db.executemany("INSERT INTO bag VALUES (?)", [("a",), ("a",), ("b",)])
    db.execute("INSERT INTO pairs VALUES ('x', 'y', ?)", (seed,))
    db.execute("INSERT INTO \"odd \"\"name\" VALUES ('r', 's')")


def changed_by(*statements: str) -> dict[str, Any]:
    desk = Desk(load_app(KIOSK.root, KIOSK.tools), prepare_image(SCHEMA, fill, 5), 5)
    for statement in statements:
        desk.db.execute(statement)
    return desk.diff()


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("UPDATE t SET price = price",),
        ("UPDATE t SET price = 1 WHERE id = 1",),  # 1 and 1.0 are equal
        ("DELETE FROM bag WHERE word = 'b'", "INSERT INTO bag VALUES ('b')"),
        (
            "DELETE FROM bag",
            "INSERT INTO bag VALUES ('b')",
            "INSERT INTO bag VALUES ('a')",
            "INSERT INTO bag VALUES ('a')",
        ),
        ("DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 'name 1', 1.0, x'00ff')"),
        ("CREATE INDEX i ON t (name)", "DROP INDEX i"),
    ],
)
def test_tables_that_hold_the_same_rows_have_no_diff(statements):
    assert changed_by(*statements) == {}


def test_case_counts_even_where_the_column_does_not_mind_it():
    change = changed_by("UPDATE t SET name = 'Name 1' WHERE id = 1")["t"]
    assert [row["name"] for row in change["removed"] + change["added"]] == ["name 1", "Name 1"]


def test_rows_without_a_key_are_counted():
    assert changed_by("DELETE FROM bag WHERE rowid = 2") == {
        "bag": {"added": [], "removed": [{"word": "a"}]}
    }
    assert changed_by("INSERT INTO bag VALUES ('b')") == {
        "bag": {"added": [{"word": "b"}], "removed": []}
    }


def test_rows_of_a_table_without_rowid_pair_by_their_key():
    assert changed_by("UPDATE pairs SET n = 6") == {
        "pairs": {
            "added": [{"a": "x", "b": "y", "n": 6}],
            "removed": [{"a": "x", "b": "y", "n": 5}],
        }
    }


def test_null_differs_from_everything_but_null():
    assert changed_by("UPDATE t SET price = NULL WHERE id = 2")["t"]["added"][0]["price"] is None
    removed = changed_by("UPDATE t SET data = NULL WHERE id = 2")["t"]["removed"]
    assert removed[0]["data"] == {"blob": "00ff"}


def test_odd_names_of_tables_and_columns_are_no_trouble():
    assert changed_by('UPDATE "odd ""name" SET "select" = 1') == {
        'odd "name': {
            "added": [{"rowid": "r", "select": "1"}],
            "removed": [{"rowid": "r", "select": "s"}],
        }
    }


def test_new_changed_and_dropped_tables_show_all_their_rows():
    assert changed_by("CREATE TABLE n (x)", "INSERT INTO n VALUES (1)")["n"] == {
        "added": [{"x": 1}],
        "removed": [],
    }
    assert changed_by("DROP TABLE pairs")["pairs"] == {
        "added": [],
        "removed": [{"a": "x", "b": "y", "n": 5}],
    }
    assert len(changed_by("ALTER TABLE bag ADD COLUMN more")["bag"]["added"]) == 3


def test_an_image_depends_on_nothing_but_the_seed():
    assert (
        prepare_image(SCHEMA, fill, 5)
        == prepare_image(SCHEMA, fill, 5)
        != prepare_image(SCHEMA, fill, 6)
    )


def test_an_app_without_a_schema_has_an_image_too():
    db = sqlite3.connect(":memory:")
    db.deserialize(prepare_image(None, None, 0))
    assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_seeded_row_that_refers_to_nothing_is_an_error_that_names_it():
    schema = (
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a_id INTEGER REFERENCES a (id));"
    )
    with pytest.raises(
        AppError,
        match="state of seed 3: row 1 of table 'b' refers to a missing row of 'a'",
    ):
        prepare_image(schema, lambda db, seed: db.execute("INSERT INTO b VALUES (9)"), 3)


def test_a_cache_forgets_the_seed_that_was_used_longest_ago():
    images = Images(most=2, most_bytes=100)
    for seed in (1, 2):
        images.put(seed, b"x")
    images.get(1)
    images.put(3, b"x")
    assert [images.get(seed) for seed in (1, 2, 3)] == [b"x", None, b"x"]
    images.put(4, b"y" * 200)  # too large to keep with others, but kept alone
    assert [images.get(seed) for seed in (1, 3, 4)] == [None, None, b"y" * 200]


# --- calls are transactions ---


BOOKS = '''
def move(db, n: int) -> str:
    """Doc."""
    db.execute("INSERT INTO t (id) VALUES (?)", (n,))
    db.commit()
    db.execute("INSERT INTO t (id) VALUES (?)", (n + 1,))
    db.rollback()
    db.execute("INSERT INTO t (id) VALUES (?)", (n + 2,))
    return [row["id"] for row in db.execute("SELECT id FROM t ORDER BY id")]


def half(db) -> str:
    """Doc."""
    db.execute("INSERT INTO t (id) VALUES (50)")
    try:
        with db:
            db.execute("INSERT INTO t (id) VALUES (51)")
            raise RuntimeError
    except RuntimeError:
        return "recovered"


def script(db) -> str:
    """Doc."""
    db.executescript("INSERT INTO t (id) VALUES (60); INSERT INTO t (id) VALUES (61);")


def orphan(db) -> str:
    """Doc."""
    db.execute("INSERT INTO child VALUES (999)")


def reading(db) -> str:
    """Doc."""
    db.execute("SELECT a.id FROM t a, t b").fetchone()
    raise ValueError("left a cursor half read")
'''


@pytest.fixture
def desk(tmp_path) -> Desk:
    schema = (
        "CREATE TABLE t (id INTEGER PRIMARY KEY);"
        " CREATE TABLE child (t_id REFERENCES t (id)); INSERT INTO t VALUES (1);"
    )
    write(tmp_path, {"tools.py": BOOKS, "schema.sql": schema})
    app = load_app(tmp_path, ["tools.py"], "schema.sql")
    return Desk(app, prepare_image(app.schema_sql, None, 0), 0)


def ids(desk: Desk) -> list[int]:
    return [row["id"] for row in desk.db.execute("SELECT id FROM t ORDER BY id")]


def test_commit_and_rollback_inside_a_tool_mean_what_they_say(desk):
    assert desk.call("move", {"n": 10}, NOW)["text"] == "[1, 10, 12]"
    assert ids(desk) == [1, 10, 12]


def test_with_db_undoes_what_was_not_committed_as_sqlite_does(desk):
    assert desk.call("half", {}, NOW)["text"] == "recovered"
    assert ids(desk) == [1]  # the whole transaction is rolled back, as on a plain connection


def test_a_tool_that_ends_the_calls_transaction_is_told_what_to_use_instead(desk):
    fault = desk.call("script", {}, NOW)["fault"]
    assert fault.startswith("tool 'script': it ended the transaction that its call runs in.")
    assert fault.endswith("db.commit() and `with db:` are fine.")
    assert desk.call("move", {"n": 10}, NOW)["ok"], "the next call has its transaction again"


def test_references_are_enforced(desk):
    assert "FOREIGN KEY constraint failed" in desk.call("orphan", {}, NOW)["text"]


def test_a_cursor_that_was_not_read_to_its_end_does_not_stop_the_undoing(desk):
    assert desk.call("reading", {}, NOW) | {"seconds": 0} == {
        "text": "left a cursor half read",
        "ok": False,
        "seconds": 0,
        "fault": "",
        "is_late": False,
    }
    assert desk.call("move", {"n": 10}, NOW)["ok"]
