"""A diff sees schemas, virtual tables, blobs and header numbers; random changes are all seen."""

import contextlib
import json
import sqlite3
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.rewards.row_pairs import diff_rows
from envgym.rewards.table_columns import primary_keys
from envgym.sandbox.agent import diff_tables, prepare_image

SCHEMA = """
CREATE TABLE notes (id TEXT PRIMARY KEY, body, data BLOB);
CREATE TABLE keyed (a, b, n, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE bag (word TEXT COLLATE NOCASE);
CREATE TABLE "odd "" name" (rowid TEXT, oid, _rowid_, "select");
CREATE TABLE computed (a INTEGER, twice AS (a * 2), kept AS (a + 1) STORED);
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, x);
CREATE INDEX by_body ON notes (body);
CREATE VIEW bodies AS SELECT body FROM notes;
CREATE TRIGGER keep AFTER DELETE ON counted BEGIN SELECT 1; END;
CREATE VIRTUAL TABLE handbook USING fts5 (title, body);
CREATE VIRTUAL TABLE mirror USING fts5 (body, content='notes', content_rowid='rowid');
CREATE VIRTUAL TABLE bare USING fts5 (body, content='');
CREATE VIRTUAL TABLE older USING fts4 (body);
CREATE VIRTUAL TABLE boxes USING rtree (id, low, high);
"""


def fill(db: sqlite3.Connection, seed: int) -> None:
    db.execute("INSERT INTO notes VALUES ('a', 1, x'00ff'), ('b', 'two words', NULL)")
    db.execute("INSERT INTO keyed VALUES (1, 2, 3)")
    db.execute("INSERT INTO bag VALUES ('x'), ('x'), ('y')")
    db.execute("""INSERT INTO "odd "" name" VALUES ('r', 1, 2, 3), ('r', 1, 2, 3)""")
    db.execute("INSERT INTO computed (a) VALUES (1)")
    db.execute("INSERT INTO handbook VALUES ('leave', 'twenty five days'), ('travel', 'by train')")
    db.execute("INSERT INTO mirror (mirror) VALUES ('rebuild')")
    db.execute("INSERT INTO bare (rowid, body) VALUES (1, 'hello world')")
    db.execute("INSERT INTO older VALUES ('four words')")
    db.execute("INSERT INTO boxes VALUES (1, 2, 3)")


IMAGE = prepare_image(SCHEMA, fill, 0)


def session(*statements: str) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(IMAGE)
    for statement in statements:
        db.execute(statement)
    return db


def changed(*statements: str) -> set[str]:
    with contextlib.closing(session(*statements)) as db:
        return set(json.loads(json.dumps(diff_tables(db, IMAGE))))


@pytest.mark.parametrize(
    ("statement", "tables"),
    [
        ("SELECT 1", set()),
        ("UPDATE notes SET body = body", set()),
        ("INSERT INTO handbook (handbook) VALUES ('optimize')", set()),
        ("INSERT INTO handbook (handbook) VALUES ('rebuild')", set()),
        ("ALTER TABLE notes ADD COLUMN more", {"sqlite_schema", "notes"}),
        ("ALTER TABLE notes DROP COLUMN data", {"sqlite_schema", "notes"}),
        ("ALTER TABLE notes RENAME COLUMN data TO file", {"sqlite_schema", "notes"}),
        ("CREATE TABLE empty (x)", {"sqlite_schema"}),
        ("CREATE VIEW more AS SELECT 1", {"sqlite_schema"}),
        ("DROP VIEW bodies", {"sqlite_schema"}),
        ("DROP INDEX by_body", {"sqlite_schema"}),
        ("CREATE UNIQUE INDEX one ON keyed (n)", {"sqlite_schema"}),
        ("DROP TRIGGER keep", {"sqlite_schema"}),
        ("PRAGMA user_version = 7", {"sqlite_pragma"}),
        ("PRAGMA application_id = -7", {"sqlite_pragma"}),
        ("UPDATE notes SET data = 'x''00ff''' WHERE id = 'a'", {"notes"}),
        ("UPDATE notes SET data = CAST(x'ff' AS TEXT)", {"notes"}),
        ("UPDATE notes SET body = '1' WHERE id = 'a'", {"notes"}),
        ("UPDATE notes SET body = 9e999", {"notes"}),
        ("UPDATE keyed SET n = 4", {"keyed"}),
        ("UPDATE bag SET word = 'X' WHERE rowid = 1", {"bag"}),
        ("DELETE FROM bag WHERE rowid = 1", {"bag"}),
        ('UPDATE "odd "" name" SET "select" = 4', {'odd " name'}),
        ("UPDATE computed SET a = 5", {"computed"}),
        ("INSERT INTO counted (x) VALUES (1)", {"counted"}),
        ("DELETE FROM handbook", {"handbook"}),
        ("DELETE FROM handbook WHERE rowid = 2", {"handbook"}),
        ("UPDATE handbook SET body = 'none' WHERE rowid = 1", {"handbook"}),
        ("INSERT INTO handbook (handbook, rank) VALUES ('rank', 'bm25(9.0)')", {"handbook"}),
        ("DELETE FROM handbook_data WHERE id > 10", {"handbook"}),
        ("INSERT INTO mirror (mirror) VALUES ('delete-all')", {"mirror"}),
        ("INSERT INTO mirror (mirror, rowid, body) VALUES ('delete', 1, '1')", {"mirror"}),
        ("INSERT INTO bare (bare, rowid, body) VALUES ('delete', 1, 'hello world')", {"bare"}),
        ("INSERT INTO bare (rowid, body) VALUES (2, 'more')", {"bare"}),
        ("INSERT INTO older VALUES ('more')", {"older"}),
        ("DELETE FROM boxes", {"boxes"}),
    ],
)
def test_a_statement_changes_these_tables(statement, tables):
    assert changed(statement) == tables


def test_a_dropped_virtual_table_shows_its_rows_and_its_objects():
    assert {"sqlite_schema", "handbook"} <= changed("DROP TABLE handbook")


def test_a_document_and_its_maintained_index_are_one_change():
    update = "UPDATE notes SET body = 'new words' WHERE id = 'b'"
    assert changed(update, "INSERT INTO mirror (mirror) VALUES ('rebuild')") == {"notes"}


def test_settings_of_the_connection_do_not_matter():
    db = session("UPDATE notes SET body = 'other' WHERE id = 'b'")
    db.text_factory = bytes
    db.row_factory = sqlite3.Row
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    (row,) = diff_tables(db, IMAGE)["notes"]["added"]
    assert row == {"id": "b", "body": "other", "data": None}
    assert db.text_factory is bytes
    assert db.getlimit(sqlite3.SQLITE_LIMIT_ATTACHED) == 0


def test_a_database_that_its_own_statements_made_unreadable_is_a_change():
    db = session(
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE nonsense (' WHERE name = 'keyed'",
    )
    broken = sqlite3.connect(":memory:", isolation_level=None)
    broken.deserialize(db.serialize())
    (row,) = diff_tables(broken, IMAGE)["sqlite_schema"]["added"]
    assert row["type"] == "unreadable"


def test_a_dropped_column_shows_in_the_schema_and_in_the_rows_that_had_a_value():
    with contextlib.closing(session("ALTER TABLE notes DROP COLUMN data")) as db:
        rows = diff_rows(diff_tables(db, IMAGE), primary_keys(SCHEMA))
    assert [(row.kind, row.table, row.key) for row in rows] == [
        ("update", "notes", "a"),
        ("update", "sqlite_schema", ("table", "notes")),
    ]
    assert rows[0].before == {"data": b"\x00\xff"}


CELL = st.sampled_from(["NULL", "0", "1", "1.0", "1.5", "'1'", "'a'", "'A'", "x'31'", "9e999"])
KEY = st.sampled_from(["1", "2", "3", "NULL"])
CHANGE = st.one_of(
    st.tuples(KEY, CELL).map(lambda v: f"INSERT OR IGNORE INTO one VALUES ({v[0]}, {v[1]})"),
    st.tuples(KEY, CELL).map(lambda v: f"INSERT OR REPLACE INTO one VALUES ({v[0]}, {v[1]})"),
    st.tuples(CELL, KEY).map(lambda v: f"UPDATE one SET v = {v[0]} WHERE k IS {v[1]}"),
    st.tuples(KEY, KEY).map(lambda v: f"UPDATE OR IGNORE one SET k = {v[0]} WHERE k IS {v[1]}"),
    KEY.map(lambda key: f"DELETE FROM one WHERE k IS {key}"),
    CELL.map(lambda cell: f"INSERT INTO many VALUES ({cell})"),
    CELL.map(lambda cell: f"DELETE FROM many WHERE x IS {cell}"),
    st.just("DELETE FROM many WHERE rowid = (SELECT max(rowid) FROM many)"),
    CELL.map(lambda cell: f"INSERT OR REPLACE INTO two VALUES (1, 2, {cell})"),
    st.just("DELETE FROM two"),
    st.sampled_from(["'hello'", "'hello world'"]).map(lambda t: f"INSERT INTO words VALUES ({t})"),
    st.just("DELETE FROM words"),
    st.sampled_from(["CREATE TABLE IF NOT EXISTS extra (x)", "DROP TABLE IF EXISTS extra"]),
    st.sampled_from(["PRAGMA user_version = 0", "PRAGMA user_version = 1"]),
)
SMALL = """
CREATE TABLE one (k TEXT PRIMARY KEY, v);
CREATE TABLE many (x);
CREATE TABLE two (a, b, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (body);
"""
SMALL_IMAGE = prepare_image(
    SMALL,
    lambda db, seed: db.executescript(
        "INSERT INTO one VALUES ('1', 1), ('2', 'a'), (NULL, 0), (NULL, 0);"
        "INSERT INTO many VALUES (1), (1), ('a'), (NULL); INSERT INTO two VALUES (1, 2, 'A');"
    ),
    0,
)


def content(db: sqlite3.Connection) -> dict[str, Counter]:
    """Return everything that a database holds, as multisets of rows with the types of cells."""
    found = {"schema": Counter(db.execute("SELECT name, sql FROM sqlite_schema"))}
    found["header"] = Counter(db.execute("PRAGMA user_version").fetchall())
    shadows = ("words_data", "words_idx", "words_content", "words_docsize", "words_config")
    for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        if name not in shadows:
            rows = db.execute(f"SELECT * FROM {name}").fetchall()
            found[name] = Counter(tuple((_type(v), v) for v in row) for row in rows)
    return found


def _type(value: object) -> str:
    return "number" if isinstance(value, int | float) else type(value).__name__


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANGE, max_size=8))
def test_a_diff_is_empty_exactly_if_the_databases_are_equal(statements):
    with (
        contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db,
        contextlib.closing(sqlite3.connect(":memory:")) as start,
    ):
        db.deserialize(SMALL_IMAGE)
        start.deserialize(SMALL_IMAGE)
        for statement in statements:
            db.execute(statement)
        changes = diff_tables(db, SMALL_IMAGE)
        now, before = content(db), content(start)
        assert (not changes) == (now == before)
        rows = diff_rows(json.loads(json.dumps(changes)), primary_keys(SMALL))
        assert bool(rows) == bool(changes)
        for table in ("one", "many", "two"):
            lost, found = before[table] - now[table], now[table] - before[table]
            told = changes.get(table, {"added": [], "removed": []})
            assert len(told["added"]) >= found.total()
            assert len(told["removed"]) >= lost.total()
