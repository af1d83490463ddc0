"""State diffs: order is ignored, numbers are compared by value, and no other row may change."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym.rewards.row_pairs import diff_rows
from envgym.rewards.state_diff import compare_changes
from envgym.rewards.table_columns import Columns, primary_keys, read_columns
from envgym.tasks import ANY, Change, Check

KEYS = {"deals": ("id",), "log": ()}


def deal(**values):
    return {"id": "D1", "stage": "open", "amount": 100, "updated_at": "old"} | values


def updated(**values):
    return diff_rows(
        {"deals": {"removed": [deal()], "added": [deal(**values)]}}, KEYS, volatile=["*.updated_at"]
    )


def test_a_changed_row_is_an_update_of_just_its_changed_columns():
    (row,) = updated(stage="won", updated_at="new")
    assert (row.kind, row.key, row.before, row.after) == (
        "update",
        "D1",
        {"stage": "open"},
        {"stage": "won"},
    )


def test_a_row_whose_volatile_columns_alone_changed_did_not_change():
    assert updated(updated_at="new") == []


def test_numbers_compare_by_value():
    assert updated(amount=100.0) == []
    assert updated(amount="100") != []
    assert updated(amount=True) != []


def test_expected_text_is_met_to_the_letter():
    expected = [Change.update("deals", "D1", stage="Closed Won")]
    assert compare_changes(expected, updated(stage="Closed Won")).is_exact
    assert not compare_changes(expected, updated(stage="closed won")).is_exact
    assert not compare_changes(expected, updated(stage="Closed  Won")).is_exact
    assert updated(stage="Open") != []


def test_declared_free_text_may_differ_in_case_and_white_space_but_a_change_of_it_is_seen():
    changed = {"deals": {"removed": [deal()], "added": [deal(stage="closed  won")]}}
    rows = diff_rows(changed, KEYS, free_text=["*.stage"])
    assert compare_changes([Change.update("deals", "D1", stage="Closed Won")], rows).is_exact
    assert not compare_changes([Change.update("deals", "D1", stage="Closed")], rows).is_exact
    changed = {"deals": {"removed": [deal()], "added": [deal(stage="Open")]}}
    assert diff_rows(changed, KEYS, free_text=["*.stage"]) != []


def test_keys_foreign_keys_and_files_stay_exact_where_all_text_is_declared_free():
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY); CREATE TABLE deals (id TEXT PRIMARY KEY, "
    schema += "stage TEXT, amount, updated_at, owner TEXT REFERENCES users (id));"
    removed = [deal(owner="u1")]
    changed = {"deals": {"removed": removed, "added": [deal(stage="WON", owner="U_AB")]}}
    rules = {"free_text": ["*.*"], "columns": read_columns(schema)}
    rows = diff_rows(changed, KEYS, **rules)
    assert compare_changes([Change.update("deals", "D1", stage="won", owner="U_AB")], rows).is_exact
    assert not compare_changes(
        [Change.update("deals", "D1", stage="won", owner="u_ab")], rows
    ).is_exact
    assert not compare_changes(
        [Change.update("deals", "d1", stage="won", owner="U_AB")], rows
    ).is_exact
    rows = diff_rows(changed, KEYS, exact=["deals"], **rules)
    assert not compare_changes(
        [Change.update("deals", "D1", stage="won", owner="U_AB")], rows
    ).is_exact


@pytest.mark.parametrize(
    ("before", "asked", "written"),
    [
        (1, 4200000777777, 4200000777778),
        (4200000777777, 4200000777778, 4200000777779),
        (0, 2**63 - 1, 2**63 - 2),
        (0, 1_700_000_000_123, 1_700_000_000_123.5),
        (2, float("inf"), 5),
        (2, 5, float("inf")),
        (2, float("inf"), -float("inf")),
        (2, 1, True),
        (2, "7", 7),
        ("x", "007", "7"),
        ("x", b"a", "a"),
        ("x", None, 0),
        ("x", "", None),
        (0, 1.5, 1.500001),
    ],
)
def test_another_value_is_another_change(before, asked, written):
    def rows(value):
        pair = {"removed": [deal(amount=before)], "added": [deal(amount=value)]}
        return diff_rows({"deals": pair}, KEYS)

    expected = [Change.update("deals", "D1", amount=asked)]
    assert compare_changes(expected, rows(asked)).is_exact
    assert not compare_changes(expected, rows(written)).is_exact
    assert rows(written)  # the change is in the diff


def test_a_float_meets_an_expected_number_up_to_rounding_or_the_declared_tolerance():
    def is_met(asked, written, **options):
        pair = {"removed": [deal()], "added": [deal(amount=written)]}
        rows = diff_rows({"deals": pair}, KEYS, **options)
        return compare_changes([Change.update("deals", "D1", amount=asked)], rows).is_exact

    assert is_met(0.3, 0.1 + 0.2)
    assert is_met(0, 0.3 - 0.1 - 0.2)
    assert not is_met(0.3, 0.1 + 0.2, tolerance=0)
    assert is_met(10, 10.04, tolerance=0.01)
    assert not is_met(10, 11, tolerance=0.5)
    assert not is_met(1_700_000_000.123, 1_700_000_000.124)  # milliseconds of a time in seconds


@pytest.mark.parametrize("still", [float("inf"), float("nan"), b"\x00", None, 10**30])
def test_a_cell_that_did_not_change_is_no_change(still):
    pair = {"removed": [deal(amount=still)], "added": [deal(amount=still, stage="won")]}
    (row,) = diff_rows({"deals": pair}, KEYS, volatile=["*.updated_at"])
    assert row.after == {"stage": "won"}


def test_a_blob_is_bytes_and_no_text_that_looks_like_it():
    pair = {"removed": [deal(amount={"blob": "00ff"})], "added": [deal(amount="x'00ff'")]}
    (row,) = diff_rows({"deals": pair}, KEYS)
    assert (row.before, row.after) == ({"amount": b"\x00\xff"}, {"amount": "x'00ff'"})
    assert row.to_dict()["before"] == {"amount": "x'00ff'"}


@pytest.mark.parametrize("key", [None, "D7"])
def test_rows_that_a_key_does_not_tell_apart_are_all_counted(key):
    added = [deal(id=key, amount=n) for n in range(6)]
    rows = diff_rows({"deals": {"removed": [], "added": added}}, KEYS)
    assert len(rows) == 6
    assert not compare_changes([Change.insert("deals", amount=3)], rows).is_exact
    removed = [deal(id=key, amount=n) for n in range(4)]
    rows = diff_rows({"deals": {"removed": removed, "added": added}}, KEYS)
    assert [(row.kind, row.after["amount"]) for row in rows] == [("insert", 4), ("insert", 5)]


def test_true_meets_1_in_a_column_that_is_declared_boolean_only():
    columns = read_columns("CREATE TABLE deals (id TEXT PRIMARY KEY, stage BOOLEAN, amount)")
    pair = {"removed": [deal(stage=0, amount=0)], "added": [deal(stage=1, amount=0)]}
    rows = diff_rows({"deals": pair}, KEYS, columns=columns)
    assert compare_changes([Change.update("deals", "D1", stage=True)], rows).is_exact
    assert not compare_changes([Change.update("deals", "D1", stage=False)], rows).is_exact
    pair = {"removed": [deal(amount=0)], "added": [deal(amount=1)]}
    rows = diff_rows({"deals": pair}, KEYS, columns=columns)
    assert not compare_changes([Change.update("deals", "D1", amount=True)], rows).is_exact


def test_an_update_need_not_name_the_columns_that_sqlite_computes():
    columns = {"deals": Columns(generated=frozenset({"amount"}))}
    pair = {"removed": [deal()], "added": [deal(stage="won", amount=200)]}
    rows = diff_rows({"deals": pair}, KEYS, columns=columns)
    assert compare_changes([Change.update("deals", "D1", stage="won")], rows).is_exact
    assert compare_changes([Change.update("deals", "D1", stage="won", amount=200)], rows).is_exact
    assert not compare_changes([Change.update("deals", "D1", stage="won", amount=1)], rows).is_exact


def test_a_forbidden_table_that_was_written_to_and_restored_is_an_undone_change():
    expected = [Change.update("deals", "D1", stage="won")]
    rows = updated(stage="won")
    verdict = compare_changes(expected, rows, forbid=["gr*"], written=["grants", "deals", "log"])
    assert [(row.kind, row.table) for row in verdict.forbidden] == [("undone", "grants")]
    assert not verdict.is_exact
    assert compare_changes(expected, rows, forbid=["gr*"], written=["deals"]).is_exact
    # A task that expects a change in a forbidden table may write to it.
    assert compare_changes(expected, rows, forbid=["deals"], written=["deals"]).is_exact


def test_any_value_will_do_where_any_is_expected_but_it_must_have_changed():
    expected = [Change.update("deals", "D1", stage=ANY)]
    assert compare_changes(expected, updated(stage="won")).is_exact
    assert not compare_changes(expected, updated(amount=1)).is_exact
    assert compare_changes(expected, updated(stage="won")).to_dict()["matched"][0]["values"] == {
        "stage": "ANY"
    }
    assert pickle.loads(pickle.dumps(ANY)) is ANY


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../x.py", "./x.py", "", "."])
def test_a_hidden_file_has_a_plain_relative_path(name):
    with pytest.raises(ValueError, match="plain relative path"):
        Check(files={name: ""}, command=("python",))


def test_a_wrong_value_is_missing_and_extra():
    verdict = compare_changes([Change.update("deals", "D1", stage="won")], updated(stage="lost"))
    assert (len(verdict.missing), len(verdict.extra), verdict.is_exact) == (1, 1, False)


def test_an_update_must_not_touch_other_columns():
    assert not compare_changes(
        [Change.update("deals", "D1", stage="won")], updated(stage="won", amount=1)
    ).is_exact


def test_one_more_write_is_not_exact_unless_its_table_is_free():
    rows = [
        *updated(stage="won"),
        *diff_rows({"log": {"removed": [], "added": [{"text": "x"}]}}, KEYS),
    ]
    expected = [Change.update("deals", "D1", stage="won")]
    assert not compare_changes(expected, rows).is_exact
    assert compare_changes(expected, rows, allow=["log"]).is_exact
    assert [row.table for row in compare_changes(expected, rows, forbid=["lo*"]).forbidden] == [
        "log"
    ]


def test_an_insert_is_met_by_a_row_that_has_its_values_whatever_its_key():
    rows = diff_rows({"deals": {"removed": [], "added": [deal(id="D9", stage="new")]}}, KEYS)
    assert compare_changes([Change.insert("deals", stage="new")], rows).is_exact
    assert not compare_changes(
        [Change.insert("deals", stage="new"), Change.insert("deals", stage="new")], rows
    ).is_exact


def test_a_vague_insert_does_not_take_the_row_of_a_precise_one():
    added = [deal(id="D8", stage="new", amount=1), deal(id="D9", stage="new", amount=2)]
    rows = diff_rows({"deals": {"removed": [], "added": added}}, KEYS)
    expected = [Change.insert("deals", stage="new"), Change.insert("deals", stage="new", amount=1)]
    assert compare_changes(expected, rows).is_exact
    assert compare_changes(expected[::-1], rows).is_exact


def test_a_delete_is_met_by_its_row_alone():
    rows = diff_rows({"deals": {"removed": [deal()], "added": []}}, KEYS)
    assert compare_changes([Change.delete("deals", "D1")], rows).is_exact
    assert not compare_changes([Change.delete("deals", "D2")], rows).is_exact


def test_nothing_expected_and_nothing_changed_is_exact():
    assert compare_changes([], []).is_exact


def test_primary_keys_are_read_from_the_schema_in_their_own_order():
    sql = (
        "CREATE TABLE a (x, id TEXT PRIMARY KEY);"
        " CREATE TABLE b (p, q, PRIMARY KEY (q, p)); CREATE TABLE c (x);"
    )
    assert primary_keys(sql) == {"a": ("id",), "b": ("q", "p"), "c": ()}


def test_columns_that_name_a_row_are_exact():
    sql = (
        'CREATE TABLE "a ""b" (id TEXT PRIMARY KEY, code TEXT UNIQUE, note, twice AS (id || id));'
        ' CREATE TABLE b (x, y REFERENCES "a ""b" (code), done BOOLEAN);'
        " CREATE VIRTUAL TABLE pages USING fts5 (body);"
    )
    columns = read_columns(sql)
    assert columns['a "b'].exact == {"id", "code"}
    assert columns['a "b'].generated == {"twice"}
    assert columns["b"] == Columns(("x", "y", "done"), frozenset("y"), frozenset({"done"}))
    assert columns["pages"].exact == {"rowid"}
    assert primary_keys(sql)["pages"] == ("rowid",)


@given(st.permutations([deal(id=f"D{n}", amount=n) for n in range(5)]))
def test_the_order_of_rows_never_matters(rows):
    changes = {"deals": {"removed": [deal(id=f"D{n}", amount=0) for n in range(5)], "added": rows}}
    expected = [Change.update("deals", f"D{n}", amount=n) for n in range(1, 5)]
    assert compare_changes(expected, diff_rows(changes, KEYS)).is_exact
