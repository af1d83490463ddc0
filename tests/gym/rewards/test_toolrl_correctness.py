"""ToolRL's correctness: the formula worked out by hand, matching, hedging, bad ground truth."""

import json

import pytest

from envgym.rewards.scoring.toolrl import (
    correctness_score,
    total,
    truth_calls,
)
from envgym.rewards.scoring.toolrl_match import likeness
from tests.fakes.toolrl_answers import CALL, RESPONSE, STAY, answer, call
from tests.gym.rewards.toolrl_blocks import correctness


def block(inside):
    return f"<think>a</think>\n<tool_call>{inside}</tool_call>"


def test_name_keys_and_values_earn_their_parts_of_s():
    # S = 1 + (1 + 2) = 4: 1 for the name, up to 1 for the keys, 1 for each value
    assert correctness([STAY], STAY) == 3.0
    assert correctness([call("stay", city="Oslo", nights=3)], STAY) == pytest.approx(1.5)  # 3/4
    assert correctness([call("stay", city="Oslo")], STAY) == pytest.approx(
        6 * 2.5 / 4 - 3
    )  # keys 1/2, one value
    assert correctness([call("stay", town="Oslo")], STAY) == pytest.approx(
        -1.5
    )  # no key in common: name alone, 1/4
    assert correctness([call("sleep", city="Oslo", nights=2)], STAY) == -3.0


def test_calls_are_as_the_truth_in_any_order_but_not_when_it_is_coarse():
    wanted = [call("f", a=1, b=2), call("g", c=3, d=4, e=5)]  # S = 8
    assert correctness(wanted[::-1], *wanted) == 3.0
    assert correctness(wanted[::-1], *wanted, granularity="refined") == pytest.approx(
        2.25
    )  # the name list differs: 7/8
    assert correctness(wanted[::-1], *wanted, granularity="intermediate") == 3.0
    assert correctness(wanted[::-1], *wanted, granularity="coarse") == -3.0
    assert (
        correctness(
            [{"parameters": {"b": 2, "a": 1}, "name": "f"}], wanted[0], granularity="coarse"
        )
        == 3.0
    )  # keys are free


def test_refined_wants_the_same_keys_in_the_same_order():
    turned = [call("stay", nights=2, city="Olso")]
    assert correctness(turned, STAY) == pytest.approx(1.5)
    assert correctness(turned, STAY, granularity="refined") == pytest.approx(0.0)  # 2/4


def test_an_extra_field_of_a_call_is_free_unless_calls_are_compared_as_a_whole():
    made = [STAY | {"id": 1}]
    assert [
        correctness(made, STAY, granularity=how)
        for how in ("default", "refined", "intermediate", "coarse")
    ] == [3, 3, 0, -3]


def test_a_call_without_parameters_is_unreadable_only_under_a_name_of_the_truth():
    wanted = [call("f", a=1), call("g", b=1)]
    assert correctness([wanted[0], {"name": "g"}], *wanted) == -3.0
    assert correctness([wanted[0], {"name": "h"}], *wanted) == pytest.approx(
        6 * (1 / 3 + 2) / 5 - 3
    )
    assert correctness([{"name": "stay", "arguments": STAY["parameters"]}], STAY) == -3.0
    assert (
        correctness(
            [{"name": "stay", "arguments": STAY["parameters"]}], STAY, granularity="intermediate"
        )
        == 0.0
    )


@pytest.mark.parametrize("parameters", [None, [], "x", 3])
def test_parameters_must_be_an_object(parameters):
    assert correctness([{"name": "stay", "parameters": parameters}], STAY) == -3.0


@pytest.mark.parametrize(
    "made",
    [["stay"], [[STAY]], [3], [None], [{}], [{"name": ["stay"], "parameters": {}}], [STAY, "x"]],
)
def test_what_is_no_call_earns_the_minimum(made):
    assert correctness(made, STAY) == -3.0


def test_a_name_that_is_no_string_is_a_wrong_name():
    assert correctness([{"name": 5}, STAY], STAY) == pytest.approx(6 * 3.5 / 4 - 3)
    assert correctness([{"name": ["x"]}, STAY], STAY, granularity="refined") == pytest.approx(
        1.5
    )  # names are only compared


LINE = json.dumps(STAY)
UNREADABLE = [
    "",
    "\n",
    LINE.replace(", ", ",\n"),  # pretty-printed
    f"{LINE}\n\n{LINE}",
    f"{LINE} {LINE}",
    f"[{LINE}]",
    f"{LINE},",
    LINE.replace('"', "'"),
    "[" * 100_000,
]


@pytest.mark.parametrize("inside", UNREADABLE)
def test_other_ways_of_writing_calls_cannot_be_read(inside):
    assert correctness(block(f"\n{inside}\n"), STAY) == -3.0


def test_indented_lines_and_carriage_returns_can_be_read():
    two = [STAY, call("leave")]
    text = answer(*two)
    assert correctness(text.replace("\n", "\n   "), *two) == 3.0
    assert total(text.replace("\n", "\r\n"), answer(*two))[:3] == (3.0, 0.0, 3.0)


def test_only_a_line_feed_ends_a_line():
    told = call("say", words="one\u2028two\u0085three")
    text = block(f"\n{json.dumps(told, ensure_ascii=False)}\n")
    assert correctness(text, told) == 3.0
    assert truth_calls(text) == [told]


@pytest.mark.parametrize(
    "text",
    [
        CALL.partition("\n")[2],
        f"Well: {CALL}",
        CALL.replace("\n", ""),
        f"{CALL}.",
        f"</tool_call>{CALL[:-12]}",
    ],
)
def test_calls_count_without_the_format(text):
    assert total(text, CALL) == (3.0, 0.0, 3.0, 0.0)


def test_a_quoted_opening_tag_spoils_the_calls_and_a_closing_one_only_the_format():
    assert total(answer(STAY, think="<tool_call> follows"), CALL) == (-3.0, 0.0, -3.0, 0.0)
    assert total(answer(STAY, think="</tool_call> ends"), CALL) == (3.0, 0.0, 3.0, 0.0)


def test_the_first_block_ends_at_the_next_tag_of_either_kind():
    assert correctness(block(f"\n{json.dumps(STAY)}\n<tool_call>\nnothing\n"), STAY) == 3.0
    assert correctness(CALL.replace("</tool_call>", ""), STAY) == -3.0


def test_parameters_for_a_tool_that_takes_none_leave_the_name_alone():
    assert correctness([call("list", all=True)], call("list")) == pytest.approx(0.0)  # S = 2
    assert correctness([call("list")], call("list"), call("list")) == pytest.approx(
        6 * (0.5 + 1) / 3 - 3
    )


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        (21, 21.0, True),
        (1, True, True),
        ({"x": 1, "y": 2}, {"y": 2, "x": 1}, True),
        ("é", "\u0065\u0301", False),
        ("Oslo", "oslo", False),
        ("Oslo", "Oslo ", False),
        ("2", 2, False),
        ([1, 2], [2, 1], False),
        (None, 0, False),
    ],
)
def test_values_are_equal_as_python_has_it(value, other, equal):
    assert correctness([call("f", v=other)], call("f", v=value)) == (
        3.0 if equal else pytest.approx(1.0)
    )  # 3/3 or 2/3


def test_names_are_compared_as_multisets_or_sets():
    # S = 1 + 2 + 1
    made = [call("f", a=1), call("f", a=2), call("g")]
    wanted = [call("f", a=1), call("g")]
    assert correctness(made, *wanted) == pytest.approx(6 * (2 / 3 + 3) / 4 - 3)
    assert correctness(made, *wanted, names="set") == 3.0
    assert correctness(made, *wanted, names="exact") == pytest.approx(6 * 3 / 4 - 3)
    assert likeness(["f", "f", "g"], ["f", "h"], "multiset") == pytest.approx(1 / 4)
    assert likeness([], ["f"], "set") == 0.0


def test_a_truth_without_a_call_says_nothing_about_calls():
    assert correctness_score(CALL, RESPONSE) is None
    assert total("", RESPONSE) == (0.0, 0.0, 0.0, 0.0)
    assert total(answer(response="something else"), RESPONSE) == (
        1.0,
        1.0,
        0.0,
        0.0,
    )  # wording is not scored
