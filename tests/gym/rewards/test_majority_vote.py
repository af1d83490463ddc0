"""Majority votes: readings of answers, votes, and the groups that are eligible."""

from fractions import Fraction

import pytest

from envgym.episode import Episode, Failure
from envgym.errors import UsageError
from envgym.messages import Message
from envgym.rewards.parts.votes import majority_vote
from envgym.rewards.scoring.answer_normalization import (
    claims_of,
    extract_boxed,
    find_reading,
    last_number,
    raw,
    value_of,
)
from envgym.rewards.scoring.majority_vote import (
    choose_labelled,
    keep_most_agreed,
    pooled_rewards,
    vote,
    vote_metrics,
    vote_rewards,
)
from envgym.tasks import Task

SPLIT = ("0.5", "0.5", "1/2", "1/2", "3", "3", "3")
"""Four of seven answers equal one half, but each of its spellings is rarer than 3."""


def box(*answers):
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


# --- reading ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} or rather \boxed{ a{b}c }", " a{b}c "),  # the last box, with white space
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),  # an escaped brace closes no group
        (r"\boxed{\boxed{1}}", "1"),
        (r"\boxed{}", ""),
        (
            r"\boxed{1} and then \boxed{2",
            None,
        ),  # truncated: the earlier box was not the final answer
        ("no box", None),
        ("", None),
    ],
)
def test_the_answer_is_the_content_of_the_last_box(text, answer):
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1/2", Fraction(1, 2)),
        (" 0.50 ", Fraction(1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"\dfrac12", Fraction(1, 2)),
        ("50%", Fraction(1, 2)),
        (r"50\%", Fraction(1, 2)),
        ("1,000", 1000),
        ("1{,}000", 1000),
        ("1e3", 1000),
        ("$5$.", 5),
        ("\N{MINUS SIGN}3", -3),
        ("-0x1F", -31),
        ("0X1f", 31),
        ("0b101", 5),
        (".5", Fraction(1, 2)),
        ("5.", 5),
    ],
)
def test_a_number_is_its_exact_value_however_it_is_written(answer, value):
    assert value_of(answer) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.333", "1/3"),
        ("1, 234", "1234"),
        (r"3\frac{1}{2}", "31/2"),
        ("1 1/2", "11/2"),
        ("1/0", "2/0"),
        ("x", "y"),
    ],
)
def test_what_differs_stays_two_answers(one, other):
    assert value_of(one) != value_of(other)


def test_texts_are_equal_but_for_case_spacing_and_dress():
    assert value_of(r" \text{New   York}. ") == value_of("new york") == "new york"
    assert value_of("(1,2)") == value_of(r"\left( 1, 2 \right)")
    assert raw(" 1") != raw("1")


def test_a_number_that_would_fill_the_memory_is_a_text():
    assert value_of("1e999999999") == "1e999999999"
    assert value_of("9" * 5000) == "9" * 5000
    assert (value_of("nan"), value_of("inf")) == ("nan", "inf")


def test_statements_are_equal_in_any_order():
    told = claims_of("Ann is a knight, and Bob is a knave.")
    assert (
        told == claims_of("bob is knave and ANN is the knight") == {"ann is knight", "bob is knave"}
    )
    assert told != claims_of("Ann is a knave, and Bob is a knight.")
    assert claims_of("A is a knight") == {"a is knight"}  # a leading "A" is a name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3-4", "4"),
        ("it is -4.", "-4."),
        ("x=-5", "-5"),
        ("first 7, then 0x1F", "0x1F"),
        ("B2", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


def test_an_unknown_reading_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'value'"):
        find_reading("valeu")


# --- the vote ---


def test_spelling_splits_a_raw_vote_so_that_a_third_answer_wins():
    by_string = vote(SPLIT, reading=raw)
    by_value = vote(SPLIT)
    assert (by_string.label, by_string.agreement) == ("3", pytest.approx(3 / 7))
    assert by_string.counts == {"0.5": 2, "1/2": 2, "3": 3}
    assert (by_value.label, by_value.agreement) == ("0.5", pytest.approx(4 / 7))
    assert by_value.counts == {"0.5": 4, "3": 3}
    assert vote_rewards(box(*SPLIT), votes="raw") == [0, 0, 0, 0, 1, 1, 1]
    assert vote_rewards(box(*SPLIT)) == [1, 1, 1, 1, 0, 0, 0]


def test_white_space_is_part_of_a_raw_string_but_not_of_its_value():
    assert vote([" 1", "1", "2", "2"], reading=raw).label == "2"
    assert vote([" 1", "1", "1", "2"]).agreement == 0.75


def test_a_raw_label_is_verified_by_value():
    assert vote_rewards(box("1/2", "1/2", "0.5", "3"), votes="raw") == [1, 1, 1, 0]


def test_of_a_tie_the_answer_seen_first_wins_and_it_is_told():
    cast = vote(["2", "1", "1", "2"])
    assert (cast.label, cast.tie) == ("2", True)
    assert vote(["2", "1", "1"]).tie is False
    assert vote(["1"]).tie is False


def test_agreement_is_of_all_rollouts_or_of_those_with_an_answer():
    answers = ["1", "1", "1", "2", None, None, " ", ""]  # an empty box is no answer
    by_all = vote(answers)
    by_parsed = vote(answers, divide_by="parsable")
    assert (by_all.agreement, by_parsed.agreement) == (3 / 8, 3 / 4)
    assert by_all.parsable == by_parsed.parsable == 0.5


def test_below_the_threshold_there_is_no_label_and_the_group_is_masked():
    answers = ["1", "1", "1", "2", "3"]
    assert vote(answers, threshold=0.6).label == "1"  # three of five reaches the threshold
    assert vote([*answers, "4"], threshold=0.6).label is None
    assert vote_rewards(box(*answers, "4"), threshold=0.6) == [None] * 6


def test_where_nobody_answers_nobody_is_rewarded_or_punished():
    cast = vote([None, "  "])
    assert (cast.label, cast.agreement, cast.counts, cast.parsable, cast.tie) == (
        None,
        0.0,
        {},
        0.0,
        False,
    )
    assert vote_rewards(["no box", r"\boxed{}"]) == [None, None]


def test_a_rollout_without_an_answer_does_not_meet_the_label():
    assert vote_rewards([*box("1", "1"), "so it is 1"]) == [1, 1, 0]


def test_lax_verification_takes_the_last_number_where_there_is_no_box_though_it_did_not_vote():
    texts = [*box("1", "1", "2"), "so it is 1", "2 + 2 is 2", "2"]
    assert vote_rewards(texts, lax=True) == [1, 1, 0, 1, 0, 0]
    assert vote_rewards(texts) == [1, 1, 0, 0, 0, 0]


def test_a_soft_reward_is_the_share_of_the_answer_summed_over_equal_values():
    expected = [4 / 7] * 4 + [3 / 7] * 3
    assert vote_rewards(box(*SPLIT), soft=True) == pytest.approx(expected)
    assert vote_rewards(box(*SPLIT), soft=True, votes="raw") == pytest.approx(expected)
    some = [*box("1", "1", "2"), "nothing"]
    assert vote_rewards(some, soft=True) == [0.5, 0.5, 0.25, 0]
    assert vote_rewards(some, soft=True, divide_by="parsable") == pytest.approx(
        [2 / 3, 2 / 3, 1 / 3, 0]
    )


def test_a_teacher_may_vote_instead():
    assert vote_rewards(box("1", "1", "2"), voters=box("2", "2", "1")) == [0, 0, 1]
    assert vote_rewards(box("1"), voters=["silent"]) == [None]


def test_the_same_prompt_twice_in_a_batch_is_one_vote_where_that_is_asked_for():
    prompts = ["p", "q", "p", "q", "p"]
    texts = box("1", "7", "2", "8", "2")
    assert pooled_rewards(prompts, texts) == [0, 1, 1, 0, 1]
    assert vote_rewards(box("1")) == [1]  # alone, the first rollout would agree with itself
    with pytest.raises(ValueError, match="longer"):
        pooled_rewards(["p"], box("1", "2"))


def test_a_reading_of_ones_own_decides_what_is_one_vote():
    assert vote(
        ["2x", "x2", "y"], reading=lambda answer: "".join(sorted(answer))
    ).agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_of_0_to_1_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold from 0 to 1"):
        vote(["1"], threshold=threshold)


def test_a_misspelt_option_is_not_taken_for_the_default():
    with pytest.raises(UsageError, match="votes is 'rwa', did you mean 'raw'"):
        majority_vote(
            Task("train/t/0", "prompt", 0, "train", "t"), [episode(*box("1"))], votes="rwa"
        )  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="divide_by is 'all'; available: rollouts, parsable"):
        vote(["1"], divide_by="all")  # type: ignore[arg-type]


def test_no_rollout_is_an_error_and_not_a_reward_of_0():
    for broken in (
        lambda: vote([]),
        lambda: vote_rewards([]),
        lambda: vote_rewards([], voters=box("1")),
        lambda: vote_metrics([]),
    ):
        with pytest.raises(UsageError, match="at least one"):
            broken()


# --- eligible groups and labels ---


def test_the_most_agreed_groups_are_kept_labelled_ones_first():
    votes = [
        vote(answers)
        for answers in (["1", "2", "3"], ["1", "1", "1"], ["1", "1", "2"], ["1", "2", "3"])
    ]
    assert keep_most_agreed(votes, 0.5) == [1, 2]
    assert keep_most_agreed(votes, 0.5, labelled={3}) == [1, 3]
    assert keep_most_agreed(votes, 0.01) == [1]  # at least one group
    assert keep_most_agreed(votes, 1.0) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="fraction"):
        keep_most_agreed(votes, 0.0)


def test_labels_are_chosen_by_hash_whatever_other_tasks_there_are_and_within_the_budget():
    ids = [f"train/t/{number}" for number in range(4000)]
    chosen = choose_labelled(ids, share=0.05)
    assert 150 < len(chosen) < 250
    assert choose_labelled(reversed(ids[:2000]), share=0.05) == chosen & set(ids[:2000])
    assert choose_labelled(ids, share=0.05, seed=1) != chosen
    few = choose_labelled(ids, share=0.05, budget=20)
    assert len(few) == 20
    assert few < chosen
    assert (
        choose_labelled(ids, share=0.0) == choose_labelled(ids, share=1.0, budget=0) == frozenset()
    )
    assert choose_labelled(ids, share=1.0) == frozenset(ids)
    with pytest.raises(UsageError, match="share"):
        choose_labelled(ids, share=float("nan"))


# --- reward parts ---


def episode(*said, void=False):
    messages = (Message("user", "?"), *(Message("assistant", text) for text in said))
    failure = Failure("timeout", "call", "gone") if void else None
    return Episode(
        "e",
        "train/t/0",
        "train",
        "",
        "t",
        0,
        messages,
        None,
        None if void else 0.0,
        failure=failure,
    )
