"""Facts are told by any spelling of a number, and by no other number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym.rewards.scoring.facts import count_words, fraction_told


def tells(text: str, *facts: str) -> float:
    return fraction_told(text, facts)


SPELLINGS = (
    "{0}",
    "It is {0}.",
    "**{0}**",
    "({0})",
    "${0}",
    "{0} €",
    "EUR {0}",
    "{0}, I think",
    "total:{0}",
    "n={0}",
    "{0}kg",
    "{0}\n",
    "`{0}`",
    "\\boxed{{{0}}}",
    "一共{0}个",
    "#{0}",
)
FORMS = ("{}", "{:,}", "{}.0", "{:,}.00")


@given(
    st.integers(0, 10**12),
    st.sampled_from(SPELLINGS),
    st.sampled_from(FORMS),
    st.sampled_from(FORMS),
)
def test_a_number_is_told_in_every_spelling(number, spelling, form, fact):
    assert tells(spelling.format(form.format(number)), fact.format(number)) == 1.0


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.sampled_from(SPELLINGS),
    st.sampled_from(FORMS),
    st.sampled_from(FORMS),
)
def test_another_number_is_told_in_no_spelling(said, number, spelling, form, fact):
    if said != number:
        assert tells(spelling.format(form.format(said)), fact.format(number)) == 0.0


PARTS = (
    "{0}.75",
    "0.{0}1",
    "-{0}",
    "{0}/977",
    "1{0}",
    "{0}1",
    "{0}:45",
    "{0}%",
    "9,{0:03}",
    "{0},000",
    "v{0}",
    "C{0}",
    "{0}a",
    "{0}th",
    "2024-{0}-05",
    "1.{0}.5",
    "{0}-{0}2",
    "{0}*3",
    "{0} million",
    "{0}k",
    "0{0}",
    "{0}²",
    "10.0.{0}.1",
    "+1{0}",
)


@given(st.integers(1, 999), st.sampled_from(PARTS))
def test_a_part_of_a_longer_number_or_code_tells_nothing(number, form):
    assert tells(f"It is {form.format(number)} now", str(number)) == 0.0


@given(st.lists(st.integers(100, 9999), min_size=3, max_size=8, unique=True), st.data())
def test_each_member_of_a_list_is_told_with_and_without_spaces(numbers, data):
    fact = data.draw(st.sampled_from(numbers))
    for separator in (",", ", ", " and ", "; ", "|", "\n"):
        assert tells(separator.join(map(str, numbers)), str(fact)) == 1.0


@pytest.mark.parametrize(
    "separator", [" ", ",", ", ", "/", "-", "_", "|", ";", "\n", ".", "、", ""]
)
@pytest.mark.parametrize("count", [40, 1000])
def test_listing_candidates_tells_nothing(separator, count):
    assert tells(separator.join(map(str, range(count))), "7") == 0.0


def test_listing_codes_or_words_of_a_script_without_spaces_tells_nothing():
    assert tells(", ".join(f"C{n}" for n in range(40)), "C7") == 0.0
    assert tells("北京上海广州" * 40, "北京") == 0.0
    assert tells("x " * 61 + "Ann", "Ann") == 0.0


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("1 000 in all", "1000"),
        ("1\u202f000", "1000"),
        ("1'000", "1000"),
        ("1.000,50", "1000.5"),
        ("1,00,000", "100000"),
        ("5 million", "5000000"),
        ("$5M", "5,000,000"),
        ("USD 1,250.50", "$1250.5"),
        ("1000", "$1,000"),
        ("50 percent", "50%"),
        ("minus: −5", "-5"),
        ("1/2", "0.5"),
        ("５", "5"),
        ("25-day trip", "25 day"),
        ("It took 25.0 days", "25 days"),
        ("C17,C18", "C18"),
        ("contact:C17", "C17"),
        ("on 2024-01-05.", "2024-01-05"),
        ("10:30-11:00", "10:30"),
        ("答案是北京。", "北京"),
        ("Ann's room", "Ann"),
        ("D12-related", "D12"),
        ("007", "007"),
        ("1. Ann has 7\n2. Bob", "7"),
    ],
)
def test_a_fact_is_told(text, fact):
    assert tells(text, fact) == 1.0


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("€1,000", "$1,000"),
        ("50", "50%"),
        ("0.5", "5"),
        ("5,75", "5"),
        ("123,456", "456"),
        ("1 234", "234"),
        ("1.000", "1000"),
        ("007", "7"),
        ("7", "007"),
        ("125 days", "25 days"),
        ("25 hours", "25 days"),
        ("-25 days", "25 days"),
        ("January 5, 2024", "5"),
        ("1. Ann\n2. Bob", "2"),
        ("C1-7", "C1"),
        ("10:30:45", "10:30"),
        ("2024-01-051", "2024-01-05"),
        ("1.2.3", "1.2"),
        ("4111111111119999", "4111111111111111"),
    ],
)
def test_a_fact_is_not_told(text, fact):
    assert tells(text, fact) == 0.0


def test_two_numbers_around_a_comma_are_a_list_if_both_are_facts():
    assert tells("101,102", "101", "102") == 1.0
    assert tells("101,102", "102") == 0.0
    assert tells("101,102", "101102") == 1.0


def test_members_of_a_list_are_words():
    assert count_words("1/2/3/4/5") == 5
    assert count_words("it's the C17") == 3
    assert count_words("一二三四") == 2
