"""State diffs: order is ignored, numbers are compared by value, and no other row may change."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym.rewards.state_diff import compare_changes, diff_rows, primary_keys, same_value
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
    assert same_value(20, 20.0)
    assert not same_value(20, "20")


def test_expected_text_may_differ_in_case_and_white_space_but_a_row_may_not_change_by_it():
    assert compare_changes(
        [Change.update("deals", "D1", stage="Closed  Won")], updated(stage="closed won")
    ).is_exact
    assert updated(stage="Open") != []


def test_text_of_an_exact_table_is_met_to_the_letter():
    changed = {"deals": {"removed": [deal()], "added": [deal(stage="won")]}}
    rows = diff_rows(changed, KEYS, exact=["deals"])
    assert compare_changes([Change.update("deals", "D1", stage="won")], rows).is_exact
    assert not compare_changes([Change.update("deals", "D1", stage="Won")], rows).is_exact


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


@given(st.permutations([deal(id=f"D{n}", amount=n) for n in range(5)]))
def test_the_order_of_rows_never_matters(rows):
    changes = {"deals": {"removed": [deal(id=f"D{n}", amount=0) for n in range(5)], "added": rows}}
    expected = [Change.update("deals", f"D{n}", amount=n) for n in range(1, 5)]
    assert compare_changes(expected, diff_rows(changes, KEYS)).is_exact
