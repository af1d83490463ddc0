"""Writes to watched tables are recorded, also if they are undone; no tool reaches the record."""

import sqlite3

import pytest

from envgym.sandbox.agent import Desk, prepare_image
from envgym.sandbox.agent.app import LoadedApp

SCHEMA = """
CREATE TABLE grants (who TEXT PRIMARY KEY, what TEXT COLLATE NOCASE);
CREATE TABLE rights (id INTEGER PRIMARY KEY, who TEXT REFERENCES grants (who) ON DELETE CASCADE);
CREATE TABLE tickets (id TEXT, title TEXT);
CREATE VIRTUAL TABLE policies USING fts5 (body);
"""


def fill(db: sqlite3.Connection, seed: int) -> None:
    db.execute("INSERT INTO grants VALUES ('ann', 'pay'), ('bob', 'read')")
    db.execute("INSERT INTO rights VALUES (1, 'bob')")
    db.execute("INSERT INTO policies VALUES ('no payments')")


def query(db, sql: str, and_then: str = "", refuse: bool = False) -> str:
    """Run one or two statements."""
    db.execute(sql).fetchall()
    if and_then:
        db.execute(and_then)
    if refuse:
        raise ValueError("refused")
    return "ok"


def undo(db, sql: str) -> str:
    """Run a statement and roll it back."""
    db.execute(sql)
    db.rollback()
    return "ok"


IMAGE = prepare_image(SCHEMA, fill, 0)


@pytest.fixture
def desk():
    tools = {"query": query, "undo": undo}
    watched = ("grants", "right*", "polic*", "absent")
    desk = Desk(LoadedApp(tools, SCHEMA, fill, watch=watched), IMAGE, 0)
    yield desk
    desk.close()


def written(desk: Desk, sql: str, tool: str = "query", **arguments) -> list[str]:
    result = desk.call(tool, {"sql": sql} | arguments, "2026-01-01")
    return result.get("writes", [])


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("INSERT INTO grants VALUES ('eve', 'pay')", ["grants"]),
        ("UPDATE grants SET what = 'PAY' WHERE who = 'ann'", ["grants"]),
        ("INSERT OR REPLACE INTO grants VALUES ('ann', 'all')", ["grants"]),
        ("DELETE FROM rights", ["rights"]),
        ("DELETE FROM grants", ["grants", "rights"]),
        ("UPDATE policies SET body = 'pay all'", ["policies"]),
        ("ALTER TABLE grants ADD COLUMN more", ["grants"]),
        ("ALTER TABLE tickets RENAME TO rights_of_way", ["rights_of_way"]),
        ("DROP TABLE rights", ["rights"]),
        ("CREATE TABLE rights_2 (x)", ["rights_2"]),
        ("CREATE TRIGGER t AFTER INSERT ON grants BEGIN SELECT 1; END", ["grants"]),
        ("UPDATE grants SET what = what", []),
        ("DELETE FROM grants WHERE who = 'nobody'", []),
        ("SELECT * FROM grants", []),
        ("INSERT INTO tickets VALUES ('T1', 'x')", []),
    ],
)
def test_a_statement_writes_to_these_watched_tables(desk, sql, tables):
    assert written(desk, sql) == tables
    assert written(desk, "SELECT 1") == []


def test_a_write_that_a_later_call_undoes_was_recorded(desk):
    assert written(desk, "INSERT INTO grants VALUES ('eve', 'pay')") == ["grants"]
    assert written(desk, "DELETE FROM grants WHERE who = 'eve'") == ["grants"]
    assert desk.diff() == {}


@pytest.mark.parametrize(
    ("sql", "back", "table"),
    [
        (
            "INSERT INTO grants VALUES ('eve', 'pay')",
            "DELETE FROM grants WHERE who = 'eve'",
            "grants",
        ),
        (
            "UPDATE grants SET what = 'all' WHERE who = 'ann'",
            "UPDATE grants SET what = 'pay' WHERE who = 'ann'",
            "grants",
        ),
        ("DELETE FROM rights", "INSERT INTO rights VALUES (1, 'bob')", "rights"),
    ],
)
def test_a_write_that_the_first_call_itself_undoes_was_recorded(desk, sql, back, table):
    assert written(desk, sql, and_then=back) == [table]
    assert "sqlite_schema" not in desk.diff()


def test_a_script_writes_to_a_watched_table_like_single_statements(desk):
    desk.app.tools["script"] = lambda db, sql: db.cursor().executescript(sql) and "ok"
    script = "DELETE FROM rights; INSERT INTO rights VALUES (1, 'bob');"
    assert written(desk, script, tool="script") == ["rights"]


def test_a_write_after_a_rollback_in_the_same_call_is_recorded(desk):
    def again(db, sql: str) -> str:
        db.execute(sql)
        db.rollback()
        db.execute(sql)
        return "ok"

    desk.app.tools["again"] = again
    assert written(desk, "DELETE FROM rights", tool="again") == ["rights"]
    assert written(desk, "SELECT 1") == []


def test_a_table_that_is_dropped_and_made_again_in_one_call_was_written_to(desk):
    made = "CREATE TABLE rights (id INTEGER PRIMARY KEY, who TEXT REFERENCES grants (who) ON DELETE"
    assert written(desk, "DROP TABLE rights", and_then=f"{made} CASCADE)") == ["rights"]
    assert written(desk, "INSERT INTO rights VALUES (1, 'bob')") == ["rights"]


def test_a_dropped_trigger_counts_as_a_write_to_its_table(desk):
    assert written(desk, "DELETE FROM rights") == ["rights"]
    assert written(desk, "DROP TRIGGER temp.envgym_insert_grants") == ["grants"]
    assert written(desk, "INSERT INTO grants VALUES ('eve', 'pay')") == ["grants"]


def test_a_row_that_a_foreign_key_or_a_trigger_writes_is_recorded():
    desk = Desk(LoadedApp({"query": query}, SCHEMA, fill, watch=("rights",)), IMAGE, 0)
    assert written(desk, "DELETE FROM grants WHERE who = 'bob'") == ["rights"]
    desk.close()
    desk = Desk(LoadedApp({"query": query}, SCHEMA, fill, watch=("rights",)), IMAGE, 0)
    move = "CREATE TRIGGER t AFTER INSERT ON tickets BEGIN UPDATE rights SET id = 9; END"
    assert written(desk, move) == []
    assert written(desk, "INSERT INTO tickets VALUES ('T1', 'x')") == ["rights"]
    desk.close()


def test_a_write_is_recorded_though_an_equal_statement_was_prepared_before(desk):
    statement = "UPDATE grants SET what = 'all' WHERE who = 'ann'"
    assert written(desk, statement, refuse=True) == []
    assert written(desk, statement) == ["grants"]
    assert written(desk, "UPDATE grants SET what = 'pay' WHERE who = 'ann'") == ["grants"]
    assert written(desk, statement) == ["grants"]


def test_what_is_rolled_back_was_not_written(desk):
    assert written(desk, "INSERT INTO grants VALUES ('eve', 'x')", refuse=True) == []
    assert written(desk, "DELETE FROM grants", tool="undo") == []
    assert written(desk, "SELECT 1") == []
    assert desk.diff() == {}


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM envgym_writes",
        "DELETE FROM temp.envgym_writes",
        "INSERT INTO Envgym_Writes VALUES ('x')",
        "DROP TABLE envgym_writes",
        "CREATE TEMP TRIGGER envgym_x AFTER INSERT ON tickets BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER x BEFORE INSERT ON envgym_writes BEGIN SELECT RAISE(IGNORE); END",
        "PRAGMA writable_schema = ON",
        "PRAGMA main.schema_version = 3",
        "ATTACH ':memory:' AS other",
    ],
)
def test_no_statement_of_a_tool_reaches_the_record(desk, sql):
    assert written(desk, "DELETE FROM rights") == ["rights"]  # sets up the triggers
    result = desk.call("query", {"sql": sql}, "2026-01-01")
    assert not result["ok"]
    assert "not authorized" in result["text"] or "too many attached" in result["text"]
    assert written(desk, "INSERT INTO grants VALUES ('eve', 'pay')") == ["grants"]


def test_a_foreign_key_without_an_action_needs_no_triggers():
    schema = SCHEMA.replace(" ON DELETE CASCADE", "")
    tools = {"query": query}
    app = LoadedApp(tools, schema, fill, watch=("right*",))
    desk = Desk(app, prepare_image(schema, fill, 0), 0)
    assert written(desk, "UPDATE grants SET what = 'nap'") == []
    notes = "SELECT count(*) FROM temp.sqlite_schema"
    assert sqlite3.Cursor(desk.db).execute(notes).fetchone()[0] == 0
    assert written(desk, "UPDATE rights SET who = 'ann'") == ["rights"]
    desk.close()


@pytest.mark.parametrize("left_behind", [None, lambda *_: sqlite3.SQLITE_OK, lambda *_: "bad"])
def test_an_authorizer_that_a_tool_leaves_behind_lasts_for_its_call_only(left_behind):
    def disarm(db) -> str:
        db.set_authorizer(left_behind)
        return "ok"

    app = LoadedApp({"query": query, "disarm": disarm}, SCHEMA, fill, watch=("grants",))
    desk = Desk(app, IMAGE, 0)
    desk.call("disarm", {}, "2026-01-01")
    assert written(desk, "UPDATE grants SET what = 'all'") == ["grants"]
    desk.close()


def test_a_session_without_watched_tables_has_no_authorizer_and_no_temporary_table():
    desk = Desk(LoadedApp({"query": query}, SCHEMA, fill), IMAGE, 0)
    assert desk.db.execute("SELECT count(*) FROM temp.sqlite_schema").fetchone()[0] == 0
    assert written(desk, "DELETE FROM grants") == []
    desk.close()
