"""JSON and tables are compared by value; unreadable answers score 0, invalid truths raise."""

import json
import sys

import pytest

from envgym.errors import PrerequisiteError, UsageError
from envgym.rewards.scoring import json_and_tables as structured
from envgym.rewards.scoring.json_and_tables import json_similarity, table_similarity

TRUTH = {"total": 31, "top": "Figs", "rows": [1, 2, 3, 4]}
SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": "integer"},
        "top": {"type": "string"},
        "rows": {"type": "array"},
    },
    "required": ["total"],
    "additionalProperties": False,
}


def near(value, truth=None, schema=None):
    return json_similarity(json.dumps(value), TRUTH if truth is None else truth, schema)


def test_equal_values_score_fully_however_they_are_written():
    text = ' {"rows": [1.0, 2, 3,\n4], "top": "\\u0046igs", "total": 3.1e1}'
    assert json_similarity(text, TRUTH) == 1.0
    assert near({"total": 31, "top": "Figs", "rows": (1, 2, 3, 4)}) == 1.0


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (TRUTH | {"total": 30}, 2 / 3),
        (TRUTH | {"total": "31"}, 2 / 3),
        (TRUTH | {"top": "figs"}, 2 / 3),
        ({"total": 31, "top": "Figs"}, 2 / 3),
        (TRUTH | {"more": 1}, 3 / 4),
        (TRUTH | {"rows": [1, 2]}, (2 + 2 / 4) / 3),
        (TRUTH | {"rows": [1, 2, 3, 4, 5]}, (2 + 4 / 5) / 3),
        (TRUTH | {"rows": [4, 3, 2, 1]}, 2 / 3),
        (TRUTH | {"rows": {}}, 2 / 3),
        ({}, 0.0),
        ([TRUTH], 0.0),
        (None, 0.0),
    ],
)
def test_every_key_and_every_position_is_an_equal_share(value, score):
    assert near(value) == pytest.approx(score)


def test_ten_guesses_at_a_key_cost_more_than_they_gain():
    assert near(TRUTH | {f"total{n}": n for n in range(10)}) == pytest.approx(3 / 13)


@pytest.mark.parametrize(
    ("one", "other", "score"),
    [
        (True, 1, 0.0),
        (0, False, 0.0),
        (None, 0, 0.0),
        (0.1 + 0.2, 0.3, 1.0),
        ([], [], 1.0),
        ({}, {}, 1.0),
        ([], {}, 0.0),
        ([True], [1], 0.0),
        (10**400, 10**400, 1.0),
        (10**400, 1.5, 0.0),
    ],
)
def test_scalars_are_equal_or_not(one, other, score):
    assert json_similarity(json.dumps(one), other) == score
    assert json_similarity(json.dumps(other), one) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Here you are: {}",
        '{"total": 31',
        "{'total': 31}",
        "NaN",
        '{"total": NaN}',
        '{"total": -Infinity}',
        '{"total": 1e999}',
        '{"total": 31} and more',
        "[" * 50_000,
        "9" * 50_000,
        " " * 200_000 + "{}",
        "\x00",
        "\ud800",
    ],
)
def test_text_that_is_no_json_scores_nothing(text):
    assert json_similarity(text, TRUTH) == 0.0
    assert json_similarity(text, TRUTH, SCHEMA) == 0.0


def test_what_breaks_the_schema_scores_nothing_though_most_of_it_is_right():
    assert near(TRUTH, schema=SCHEMA) == 1.0
    assert near(TRUTH | {"total": 30}, schema=SCHEMA) == pytest.approx(2 / 3)
    assert near(TRUTH | {"total": "31"}, schema=SCHEMA) == 0.0
    assert near(TRUTH | {"more": 1}, schema=SCHEMA) == 0.0
    assert near({"top": "Figs"}, schema=SCHEMA) == 0.0


@pytest.mark.parametrize(
    "truth", [float("nan"), {"a": float("inf")}, {1, 2}, object(), {(1, 2): 3}]
)
def test_a_truth_that_is_no_json_is_an_error(truth):
    with pytest.raises(UsageError, match="the truth is not JSON"):
        json_similarity("{}", truth)


def test_a_truth_against_its_own_schema_is_an_error():
    with pytest.raises(UsageError, match=r"violates the schema: \{'total': 'many'\}"):
        json_similarity("{}", {"total": "many"}, SCHEMA)


def test_a_schema_that_is_none_is_an_error_that_says_where():
    with pytest.raises(
        UsageError, match=r"the JSON schema is invalid: \$\.properties\.total\.type"
    ):
        json_similarity("{}", {}, {"properties": {"total": {"type": "whole"}}})


def test_a_schema_that_leads_elsewhere_is_not_followed():
    with pytest.raises(UsageError, match=r"refers to http://127\.0\.0\.1:9/schema\.json"):
        json_similarity("{}", {}, {"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(UsageError, match="refers to /nowhere"):
        json_similarity('{"a": 1}', {}, {"properties": {"a": {"$ref": "#/nowhere"}}})


def test_a_missing_jsonschema_is_named_with_the_remedy(monkeypatch):
    structured._validator.cache_clear()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert json_similarity("[]", []) == 1.0
    with pytest.raises(PrerequisiteError, match="pip install jsonschema"):
        json_similarity("[]", [], {"type": "array"})


ROWS = [
    {"item": "Figs", "sold": 3},
    {"item": "North Sea", "sold": 7.5},
]  # two columns, two rows: 6 cells with the header


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("item,sold\nFigs,3\nNorth Sea,7.5\n", 1.0),
        (
            "sold,item\n3.0,figs\n7.50,north  sea",
            1.0,
        ),  # columns in any order, numbers by value, text case-insensitive
        ('item,sold\r\n"Figs","3"\r\n\r\n"North Sea",7.5\r\n', 1.0),
        ("item,sold\nFigs,4\nNorth Sea,7.5", 2 * 5 / 12),
        ("item,sold\nFigs,3", 2 * 4 / (4 + 6)),
        ("item,sold\nFigs,3\nNorth Sea,7.5\nmore,1", 2 * 6 / (8 + 6)),
        ("item,sold,why\nFigs,3,a\nNorth Sea,7.5,b", 2 * 6 / (9 + 6)),
        ("name,sold\nFigs,3\nNorth Sea,7.5", 2 * 3 / 12),
        (
            "item,sold\nNorth Sea,7.5\nFigs,3",
            2 * 2 / 12,
        ),  # in reverse order only the header matches
        ("a,b\nc,d", 0.0),
    ],
)
def test_a_table_is_the_f1_of_its_cells(text, score):
    assert table_similarity(text, ROWS) == pytest.approx(score)


def test_without_regard_to_order_each_row_meets_the_one_it_fits_best():
    swapped = "item,sold\nNorth Sea,7.5\nFigs,3"
    assert table_similarity(swapped, ROWS, ordered=False) == 1.0
    assert table_similarity("item,sold\nNorth Sea,9\nFigs,3", ROWS, ordered=False) == pytest.approx(
        2 * 5 / 12
    )
    assert table_similarity("item,sold\nFigs,3\nFigs,3", ROWS, ordered=False) == pytest.approx(
        2 * 4 / 12
    )  # no row counts twice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "item,sold",
        "item,sold\nFigs",
        "item,sold\nFigs,3,4",
        "item,item\nFigs,3",
        'item,sold\n"Figs,3',
        "no table at all",
        "item,sold\n" + "Figs,3\n" * 501,
        "x" * 200_000,
        "item,sold\n" + "y" * 140_000 + ",3",
    ],
)
def test_text_that_is_no_table_scores_nothing(text):
    assert table_similarity(text, ROWS) == 0.0
    assert table_similarity(text, ROWS, ordered=False) == 0.0


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "needs 1 to 500 rows"),
        ([{}], "needs 1 to 500 rows"),
        ([{"a": 1}, {"b": 1}], "the same"),
        ([{"a": 1, "A ": 2}], "distinct columns"),
        ([{"a": float("nan")}], "nan in column 'a'"),
        ([{"a": [1]}], r"\[1\] in column 'a'"),
    ],
)
def test_a_true_table_that_makes_no_sense_is_an_error(rows, problem):
    with pytest.raises(UsageError, match=problem):
        table_similarity("a\n1", rows)


def test_words_for_no_number_are_words():
    assert table_similarity("a\nnan", [{"a": "NaN"}]) == 1.0
    assert table_similarity("a,b\n1,", [{"a": 1, "b": None}]) == 1.0
    assert table_similarity("a\ntrue", [{"a": True}]) == 1.0
