"""Rewards for answers: correct words, the correct label, and the cited passages."""

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.messages import ToolCall
from envgym.rewards.evidence import CallRecord, Evidence
from envgym.rewards.parts.answers import answer_cited, answer_exact, answer_f1, cites, label_right
from envgym.rewards.rubric import Rubric, shipped_parts
from envgym.rewards.state_diff import compare_changes
from envgym.tasks import Task

TEAMS = ["billing", "delivery", "delivery abroad"]
V2 = {"v2": True, "no_answer": "not in the handbook"}


def said(final, opened=(), refused=(), **extra):
    task = Task("train/t/0", "prompt", 0, "train", "t", extra=extra)
    calls = [
        CallRecord(1, ToolCall("open_section", {"section": id_}), id_ in opened, "")
        for id_ in (*opened, *refused)
    ]
    return Evidence(task, tuple(calls), (), compare_changes((), (), forbid=()), final, 1, {})


def test_the_shipped_parts_can_be_named_in_a_yaml():
    assert {"answer_exact", "answer_f1", "answer_cited", "label_right", "cites"} <= set(
        shipped_parts()
    )


def test_an_answer_is_judged_by_the_rules_of_squad_against_the_best_gold():
    assert answer_exact(said("The 25 days.", answers=["a month", "25 days"])) == 1.0
    assert answer_exact(said("It is 25 days", answers=["25 days"])) == 0.0
    assert answer_f1(said("It is 25 days", answers=["25 days"])) == pytest.approx(
        2 / 3
    )  # 2 of 4, 2 of 2


def test_citations_are_no_words_of_the_answer_to_a_task_with_sources():
    truth = {"answers": ["25 days"], "sources": ["H12"]}
    assert answer_exact(said("25 days [H12] [H3]", **truth)) == 1.0
    assert answer_exact(said("[H12] 25 days", **truth)) == 1.0
    assert (
        answer_exact(said("[sic]", answers=["[sic]"])) == 1.0
    )  # without sources, brackets are text


def test_a_leading_thought_is_not_judged():
    assert answer_exact(said("<think>30? 25?</think>25 days", answers=["25 days"])) == 1.0


def test_a_task_without_this_truth_is_not_scored():
    assert [
        part(said("x")) for part in (answer_exact, answer_f1, answer_cited, label_right, cites)
    ] == [None] * 5


def test_where_there_is_no_answer_it_must_be_said_in_the_agreed_words():
    assert answer_exact(said("Not in the handbook. [H1]", answers=[], sources=["H1"]), **V2) == 1.0
    assert answer_f1(said("25 days", answers=[]), **V2) == 0.0
    assert answer_exact(said("unanswerable", answers=[]), **V2) == 0.0
    assert answer_exact(said("unanswerable", answers=[]), v2=True) == 1.0
    assert answer_exact(said("Not in the handbook", answers=["25 days"]), **V2) == 0.0


@pytest.mark.parametrize("silence", ["", "[H1]", " the. "])
def test_silence_is_never_right_so_that_an_episode_cut_off_earns_nothing(silence):
    for part in (answer_exact, answer_f1):
        assert part(said(silence, answers=[], sources=["H1"]), **V2) == 0.0


@pytest.mark.parametrize(
    ("final", "value"),
    [
        ("billing", 1.0),
        ("Billing.", 1.0),
        ("It is BILLING, yes: billing", 1.0),
        ("billing or delivery", 0.0),
        ("delivery", 0.0),
        ("rebilling", 0.0),
        ("non-billing", 0.0),
        ("billing_old", 0.0),
        ("", 0.0),
        ("I cannot tell", 0.0),
        ("<think>billing or delivery?</think> billing", 1.0),
    ],
)
def test_exactly_one_label_must_stand_there_as_a_whole_word(final, value):
    assert label_right(said(final, label="billing", labels=TEAMS)) == value


def test_of_overlapping_labels_the_longer_one_is_meant():
    assert label_right(said("Delivery  abroad", label="delivery abroad", labels=TEAMS)) == 1.0
    assert label_right(said("delivery abroad", label="delivery", labels=TEAMS)) == 0.0
    assert (
        label_right(
            said("not_entailment", label="not_entailment", labels=["entailment", "not_entailment"])
        )
        == 1.0
    )


def test_a_number_as_label_is_no_part_of_another_number():
    labels = ["0", "1", "5"]
    assert label_right(said("1", label="1", labels=labels)) == 1.0
    for other in ("1.5", "15", "0,1", "10"):
        assert label_right(said(other, label="1", labels=labels)) == 0.0


@pytest.mark.parametrize(
    ("final", "value"),
    [
        ("25 [H1] [H2]", 1.0),
        ("25 [H1][H2][H1]", 1.0),
        ("25 [H1]", 2 / 3),  # precision 1, recall 1/2
        ("25 [H1] [H2] [H3] [H4]", 2 / 3),  # precision 1/2, recall 1
        ("25 [H3]", 0.0),
        ("25 (H1, H2)", 0.0),
        ("25", 0.0),
    ],
)
def test_citations_are_scored_by_precision_and_recall(final, value):
    assert cites(said(final, sources=["H1", "H2"])) == pytest.approx(value)


def test_a_task_that_needs_no_citation_is_not_scored_for_any():
    assert cites(said("25 [H1]", sources=[])) is None


def test_what_was_not_opened_is_not_cited():
    both = said("25 [H1] [H2]", opened=["H1", "H2"], sources=["H1", "H2"])
    one = said("25 [H1] [H2]", opened=["H1"], refused=["H2"], sources=["H1", "H2"])
    assert cites(both, read_with="open_section") == 1.0
    assert cites(one, read_with="open_section") == 0.5  # one correct of two cited and two needed
    assert cites(one, read_with="search") == 0.0


def test_solved_is_the_right_answer_with_exactly_the_right_sources():
    truth = {"answers": ["25 days"], "sources": ["H1"]}
    assert answer_cited(said("25 days [H1]", **truth)) == 1.0
    assert answer_cited(said("25 days [H1]", **truth), read_with="open_section") == 0.0
    assert (
        answer_cited(said("25 days [H1]", opened=["H1"], **truth), read_with="open_section") == 1.0
    )
    for wrong in ("25 days", "25 days [H2]", "25 days [H1] [H2]", "26 days [H1]"):
        assert answer_cited(said(wrong, **truth)) == 0.0
    assert answer_cited(said("25 days", answers=["25 days"])) == 1.0  # no source is required


@pytest.mark.parametrize(
    ("part", "extra", "told"),
    [
        (
            answer_exact,
            {"answers": "25 days"},
            "'answers'. must be a list of non-empty texts, got '25 days'",
        ),
        (answer_f1, {"answers": [None]}, "'answers'. must be"),
        (cites, {"sources": "H1"}, "'sources'. must be"),
        (label_right, {"label": "a"}, "'labels'. must be"),
        (label_right, {"label": "c", "labels": ["a", "b"]}, "label 'c' must be one of `labels`"),
        (label_right, {"label": "a", "labels": ["a", "A"]}, "labels must differ in more than case"),
    ],
)
def test_a_malformed_truth_is_the_environments_mistake(part, extra, told):
    with pytest.raises(SpecError, match=f"task 'train/t/0': .*{told}"):
        part(said("a [H1]", **extra))
    with pytest.raises(WorldFailure, match="reward_raised"):
        Rubric.of({"solved": (part, 1.0)}, "solved").score(said("a [H1]", **extra))


def test_version_1_refuses_a_task_without_answers():
    with pytest.raises(ValueError, match="v2=True"):
        answer_exact(said("x", answers=[]))
