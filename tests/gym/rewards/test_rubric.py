"""The reward is a weighted sum of named parts; a part that fails voids the episode."""

import dataclasses

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.messages import ToolCall
from envgym.rewards.evidence import CallRecord, Evidence
from envgym.rewards.parts.final_message import facts_told, valid_calls
from envgym.rewards.parts.state import state_match, state_progress
from envgym.rewards.parts.state import tests_pass as check_part
from envgym.rewards.rubric import Rubric, find_part
from envgym.rewards.state_diff import RowDiff, compare_changes
from envgym.sandbox import Verification
from envgym.spec.environment import EnvSpec, load_spec
from envgym.tasks import Change, Task

WON = Change.update("deals", "D1", stage="won", amount=5)


def evidence(rows=(), changes=(WON,), facts=(), final="", calls=(), modes=None, forbid=()):
    task = Task("train/t/0", "prompt", 0, "train", "t", changes=tuple(changes), facts=tuple(facts))
    return Evidence(
        task,
        tuple(calls),
        tuple(rows),
        compare_changes(changes, rows, forbid=forbid),
        final,
        1,
        modes or {},
    )


def update(**after):
    return RowDiff("update", "deals", "D1", dict.fromkeys(after, None), after)


def rubric(**parts):
    return Rubric.of(parts, success="solved")


def test_the_reward_is_the_weighted_sum_and_weight_zero_only_a_metric():
    score = rubric(
        solved=(lambda e: 1.0, 0.5), bonus=(lambda e: 0.5, 2.0), seen=(lambda e: 7.0, 0.0)
    ).score(evidence())
    assert score.reward == pytest.approx(1.5)
    assert score.parts == {"solved": 1.0, "bonus": 0.5, "seen": 7.0}
    assert score.success


def test_a_part_that_does_not_apply_counts_for_nothing():
    score = rubric(solved=(lambda e: 1.0, 1.0), facts=(lambda e: None, 1.0)).score(evidence())
    assert (score.reward, score.parts["facts"]) == (1.0, None)


@pytest.mark.parametrize("broken", [lambda e: 1 / 0, lambda e: float("nan"), lambda e: "high"])
def test_a_part_that_breaks_voids_the_episode(broken):
    with pytest.raises(WorldFailure, match="reward_raised in score: part 'solved'"):
        rubric(solved=(broken, 1.0)).score(evidence())


def test_a_forbidden_write_takes_everything():
    row = RowDiff("delete", "users", "U1", {}, {})
    score = rubric(solved=(lambda e: 1.0, 1.0)).score(evidence([row], forbid=["users"]))
    assert (score.reward, score.success) == (0.0, False)


def test_state_match_wants_exactly_the_expected_rows():
    assert state_match(evidence([update(stage="won", amount=5)])) == 1.0
    assert state_match(evidence([update(stage="won", amount=6)])) == 0.0
    assert state_match(evidence([])) == 0.0


def test_a_task_that_expects_nothing_is_never_solved_by_doing_nothing():
    assert state_match(evidence([], changes=[])) == 0.0


def test_state_match_wants_every_fact_too():
    assert state_match(evidence([], changes=[], facts=["1,200"], final="It is 1200 euros.")) == 1.0
    assert state_match(evidence([], changes=[], facts=["1200"], final="It is 12001 euros.")) == 0.0


def test_a_check_that_failed_takes_a_right_change_back():
    right = dataclasses.replace(
        evidence([update(stage="won", amount=5)]), verification=Verification(0, "")
    )
    assert (state_match(right), check_part(right)) == (1.0, 1.0)
    for code in (1, -9, None):
        wrong = dataclasses.replace(right, verification=Verification(code, ""))
        assert (state_match(wrong), check_part(wrong)) == (0.0, 0.0)
    assert check_part(evidence()) is None


def test_progress_is_the_share_of_right_columns():
    assert state_progress(evidence([update(stage="won")])) == pytest.approx(
        0.5
    )  # one of two columns
    assert state_progress(evidence([update(stage="won", amount=6)])) == pytest.approx(0.5)
    assert state_progress(evidence([update(stage="won", owner="U1")])) == pytest.approx(
        1 / 3
    )  # an extra column lowers the score


def test_an_unasked_row_costs_progress():
    extra = RowDiff("insert", "notes", "N1", {}, {"text": "x"})
    assert state_progress(evidence([update(stage="won"), extra])) == pytest.approx(0.0)
    assert state_progress(evidence([update(stage="won", amount=5), extra])) == pytest.approx(0.5)


def test_facts_are_whole_words_and_a_long_list_tells_nothing():
    assert facts_told(evidence(facts=["C17", "Ann"], final="Ann has it")) == 0.5
    assert facts_told(evidence(facts=["C1"], final="see C17")) == 0.0
    assert facts_told(evidence(facts=["C17"], final="C17 " + "x " * 80)) == 0.0
    assert facts_told(evidence()) is None


def test_a_thought_tells_no_fact_and_takes_no_room():
    thought = "<think>" + "C17 or C18? " * 40 + "</think>\n"
    assert facts_told(evidence(facts=["C17"], final=thought + "It is C17.")) == 1.0
    assert facts_told(evidence(facts=["C17"], final=thought + "It is C18.")) == 0.0


def test_valid_calls_counts_malformed_attempts():
    calls = [
        CallRecord(1, ToolCall("a", {}), True, ""),
        CallRecord(2, ToolCall("b", {}), False, ""),
    ]
    assert valid_calls(evidence(calls=calls, modes={"invalid": 2})) == pytest.approx(1 / 4)
    assert valid_calls(evidence()) == 0.0


def test_an_unknown_part_gets_a_suggestion():
    spec = EnvSpec.model_construct(path="my.yaml")
    with pytest.raises(SpecError, match="did you mean 'state_match'"):
        find_part("state_macth", spec)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            "{from: boxed_right, options: {laxx: true}}",
            "reward.part: 'boxed_right' has no option 'laxx', did you mean 'lax'?",
        ),
        (
            "{from: judge, options: {url: 'http://localhost:1/v1', model: m}}",
            "reward.part: 'judge' needs an option 'rubric'",
        ),
    ],
)
def test_an_option_that_a_part_does_not_have_or_lacks_is_told_before_anything_is_played(part, said):
    with pytest.raises(SpecError) as error:
        Rubric.from_spec(load_spec("guess", [f"reward.part={part}"]))
    assert said in str(error.value)
