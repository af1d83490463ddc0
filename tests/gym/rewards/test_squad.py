"""SQuAD's exact match and F1 by the official scripts' rules, with values worked out by hand."""

import pytest

from envgym.errors import UsageError
from envgym.rewards.scoring.squad import SquadScores, exact, f1, normalize, score_all


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("Eiffel-Tower", "eiffeltower"),  # punctuation is removed without a space
        ("A. B.", "b"),  # punctuation goes first, so that "a." becomes an article
        ("t.h.e end", "end"),
        ("theatre and an anthem", "theatre and anthem"),  # whole words only
        ("a the an", ""),
        ("«Größe» – 5 €", "«größe» – 5 €"),  # only ASCII punctuation
        ("", ""),
    ],
)
def test_normal_form_is_lower_case_then_no_punctuation_then_no_articles_then_single_spaces(
    text, normal
):
    assert normalize(text) == normal
    assert normalize(normalize(text)) == normal


def test_exact_match_is_of_normal_forms_and_the_best_gold_counts():
    assert exact("the eiffel tower.", ["Paris", "Eiffel Tower"]) == 1.0
    assert exact("in the Eiffel Tower", ["Eiffel Tower"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("in the Eiffel Tower", "Eiffel Tower", 0.8),  # 2 shared, precision 2/3, recall 1
        ("tower tower", "tower", 2 / 3),  # bag of words: one of the two is shared
        ("tower tower", "tower tower bridge", 0.8),  # 2 of 2, 2 of 3
        ("bridge", "tower", 0.0),
    ],
)
def test_f1_is_of_the_words_shared_as_bags(prediction, gold, expected):
    assert f1(prediction, [gold]) == pytest.approx(expected)


def test_f1_takes_the_best_gold_of_several():
    assert f1("north tower", ["the tower of the north", "tower"]) == pytest.approx(
        0.8
    )  # 2/2, 2/3 beats 1/2, 1


def test_a_question_without_answer_wants_the_empty_answer_in_version_2():
    assert (exact("", [], v2=True), f1("", [], v2=True)) == (1.0, 1.0)
    assert (exact("The.", [], v2=True), f1("The.", [], v2=True)) == (
        1.0,
        1.0,
    )  # normalises to nothing
    assert (exact("Paris", [], v2=True), f1("Paris", [], v2=True)) == (0.0, 0.0)
    assert (exact("", ["Paris"], v2=True), f1("", ["Paris"], v2=True)) == (0.0, 0.0)


def test_golds_that_normalise_to_nothing_are_dropped_in_version_2_only():
    assert exact("", ["The", "Paris"], v2=True) == 0.0
    assert exact("", ["The"], v2=True) == 1.0
    assert exact("", ["The", "Paris"]) == 1.0  # version 1.1 compares with all of them
    assert f1("an", ["The"]) == 0.0  # in version 1.1 the F1 of two empty texts is 0
    assert f1("an", ["The"], v2=True) == 1.0  # in version 2.0 it is 1


def test_version_1_has_no_unanswerable_question():
    with pytest.raises(UsageError, match="v2=True"):
        exact("", [])


@pytest.mark.parametrize("golds", ["Paris", [None], [3]])
def test_golds_must_be_a_list_of_texts(golds):
    with pytest.raises(UsageError, match="list of texts"):
        f1("Paris", golds)


def test_a_set_is_scored_in_per_cent_and_by_answerability():
    golds = {"q1": ["Eiffel Tower"], "q2": ["1889"], "q3": []}
    predictions = {"q1": "in the Eiffel Tower", "q2": "1889", "q3": "", "of no question": "x"}
    scores = score_all(predictions, golds, v2=True)
    assert scores["answerable"] == SquadScores(50.0, 90.0, 2)  # F1 0.8 and 1
    assert scores["unanswerable"] == SquadScores(100.0, 100.0, 1)
    assert scores["all"].exact == pytest.approx(200 / 3)
    assert scores["all"].f1 == pytest.approx(280 / 3)
    assert set(score_all(predictions, {"q1": ["Eiffel Tower"]})) == {"all"}


def test_a_missing_prediction_and_an_empty_set_are_errors():
    with pytest.raises(UsageError, match="no prediction for question 'q2' \\(1 of 2"):
        score_all({"q1": "x"}, {"q1": ["x"], "q2": ["y"]})
    with pytest.raises(UsageError, match="no question"):
        score_all({}, {})
