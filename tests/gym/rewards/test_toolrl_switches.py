"""ToolRL's switches at several steps; the rubric's parts add up to the reference's total."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.errors import UsageError, WorldFailure
from envgym.rewards.evidence import Evidence
from envgym.rewards.parts.toolrl import (
    toolrl_correctness,
    toolrl_format,
    toolrl_length,
    toolrl_solved,
)
from envgym.rewards.rubric import Rubric
from envgym.rewards.scoring.toolrl import ToolRlSettings, correctness_score, total
from envgym.rewards.state_diff import compare_changes
from envgym.tasks import Task
from tests.fakes.toolrl_answers import CALL, RESPONSE, STAY, answer, call

# --- switches ---

WRONG = "no tags at all"
RIGHT_RANGES = [
    # settings, step, format (least, most), correctness (least, most)
    ({}, 0, (0, 1), (-3, 3)),
    ({}, 400, (0, 1), (-3, 3)),
    ({"equal_max": True}, 50, (0, 1), (-1, 1)),
    ({"two_stage": True}, 0, (0, 1), (-1, 1)),
    ({"two_stage": True}, 29, (0, 1), (-1, 1)),
    ({"two_stage": True}, 30, (0, 0.5), (-3, 3)),
    ({"smooth": True}, 0, (-2, 2), (-2, 2)),
    ({"smooth": True}, 30, (-1.6, 1.8), (-2.2, 2.2)),
    ({"smooth": True}, 75, (-1, 1.5), (-2.5, 2.5)),
    ({"smooth": True}, 150, (-1, 1), (-3, 3)),
    ({"smooth": True}, 400, (-1, 1), (-3, 3)),
    ({"smooth": True, "equal_max": True}, 75, (-1, 1.5), (-1.5, 1.5)),
    (
        {"smooth": True, "equal_max": True},
        300,
        (-1, 1),
        (0, 0),
    ),  # the reference has no lower bound at 1
    ({"equal_max": True, "two_stage": True}, 0, (0, 1), (-1 / 3, 1 / 3)),
    ({"two_stage": True, "smooth": True}, 15, (-1.8, 1.9), (-1.9, 1.9)),  # 2 + (1 - 2) / 10
    ({"two_stage": True, "smooth": True}, 60, (-1.2, 1.4), (-2.4, 2.4)),  # 2 - (2 - 0.5) * 0.4
    ({"smooth": True, "schedule": "paper", "total_steps": 200}, 0, (-2, 2), (-2, 2)),
    ({"smooth": True, "schedule": "paper", "total_steps": 200}, 50, (-1.75, 1.75), (-2.25, 2.25)),
    ({"smooth": True, "schedule": "paper", "total_steps": 200}, 300, (-1, 1), (-3, 3)),
    ({"two_stage": True, "schedule": "paper"}, 30, (0, 0.5), (-3, 3)),
]


@pytest.mark.parametrize(("switches", "step", "form", "calls"), RIGHT_RANGES)
def test_each_switch_sets_the_ranges_of_its_step(switches, step, form, calls):
    chosen = ToolRlSettings(**switches)
    least, most = (total(text, CALL, step=step, settings=chosen) for text in (WRONG, CALL))
    assert (least.format, most.format) == pytest.approx(form)
    assert (least.correctness, most.correctness) == pytest.approx(calls)
    assert (least.total, most.total) == pytest.approx((form[0] + calls[0], form[1] + calls[1]))
    half = total(
        answer(call("stay", town="Oslo")), CALL, step=step, settings=chosen
    ).correctness  # the name alone: 1/4
    assert half == pytest.approx(calls[0] + (calls[1] - calls[0]) / 4)


@pytest.mark.parametrize(
    ("switches", "step", "target"),
    [
        ({}, 90, 512),
        ({"schedule_length": True}, 0, 384),
        ({"schedule_length": True}, 105, 640),
        ({"schedule_length": True}, 210, 896),
        ({"schedule_length": True, "schedule": "paper", "total_steps": 80}, 20, 640),
        ({"schedule_length": True, "schedule": "paper", "total_steps": 80}, 90, 1024),
    ],
)
def test_the_length_counts_where_it_is_switched_on_against_the_target_of_the_step(
    switches, step, target
):
    text = answer(STAY, think="w " * (target // 4))
    assert total(text, CALL, step=step, settings=ToolRlSettings(with_length=True, **switches)) == (
        4.25,
        1.0,
        3.0,
        0.25,
    )
    assert total(text, CALL, step=step, settings=ToolRlSettings(**switches)).length == 0.0


def test_the_papers_form_matches_optimally_and_names_as_sets():
    chosen = ToolRlSettings.paper(smooth=True, total_steps=10)
    assert (chosen.matching, chosen.names, chosen.schedule, chosen.smooth) == (
        "optimal",
        "set",
        "paper",
        True,
    )


@pytest.mark.parametrize(
    ("switches", "what"),
    [
        ({"granularity": "fine"}, "granularity is 'fine'"),
        ({"matching": "optimum"}, "did you mean 'optimal'"),
        ({"names": "bag"}, "names is 'bag'"),
        ({"schedule": "papers"}, "did you mean 'paper'"),
        ({"template": "gpt"}, "available: None, qwen, llama"),
        ({"total_steps": 0}, "total_steps is 0"),
        (
            {"schedule": "paper", "smooth": True, "two_stage": True},
            "Remove equal_max and two_stage",
        ),
        ({"two_stag": True}, "unknown option 'two_stag', did you mean 'two_stage'"),
    ],
)
def test_a_wrong_setting_is_told_with_its_remedy(switches, what):
    with pytest.raises(UsageError, match=what):
        ToolRlSettings.of(switches)


# --- parts ---


def evidence(*said, truth: object = CALL, step=0):
    extra = {} if truth is None else {"truth": truth}
    task = Task("train/t/0", "prompt", 0, "train", "t", extra=extra)
    return Evidence(
        task, (), (), compare_changes((), ()), "", len(said), {}, assistant_messages=said, step=step
    )


PARTS = {"format": toolrl_format, "correctness": toolrl_correctness, "length": toolrl_length}
VALUES = st.sampled_from([1, 2, True, "a", "b", None, [1]])
CALLS = st.builds(
    lambda name, parameters: {"name": name, "parameters": parameters},
    st.sampled_from("fg"),
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
)
TEXTS = st.builds(
    lambda calls, response, words: answer(*calls, response=response, think="w " * words),
    st.lists(st.one_of(CALLS, st.sampled_from([{}, 3, {"name": "f"}])), max_size=3),
    st.sampled_from([None, "r"]),
    st.sampled_from([0, 100, 500, 900]),
)
TRUTHS = st.builds(
    lambda calls, response: answer(*calls, response=response),
    st.lists(CALLS, max_size=3),
    st.sampled_from([None, "r"]),
)
SWITCHES = st.fixed_dictionaries(
    {
        **{
            name: st.booleans()
            for name in ("schedule_length", "equal_max", "two_stage", "smooth", "guard")
        },
        "granularity": st.sampled_from(["default", "refined", "intermediate", "coarse"]),
        "matching": st.sampled_from(["greedy", "optimal"]),
        "names": st.sampled_from(["multiset", "set", "exact"]),
        "template": st.sampled_from([None, "qwen", "llama"]),
    }
)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TRUTHS, SWITCHES, st.integers(0, 200))
def test_the_parts_add_up_to_the_whole_and_stay_in_range(text, truth, switches, step):
    parts = [part(evidence(text, truth=truth, step=step), **switches) for part in PARTS.values()]
    whole = total(text, truth, step=step, settings=ToolRlSettings(with_length=True, **switches))
    assert sum(value for value in parts if value is not None) == pytest.approx(whole.total)
    assert (parts[1] is None) == ("<tool_call>" not in truth)
    least, most = ToolRlSettings.of(switches).correctness_range(step)
    assert least - 1e-9 <= (parts[1] if parts[1] is not None else least) <= most + 1e-9
    assert correctness_score(truth, truth, guard=True) in (None, 1.0)


def test_a_rubric_of_the_parts_gives_the_references_total():
    rubric = Rubric.of(
        {"solved": (toolrl_solved, 0.0)} | {name: (part, 1.0) for name, part in PARTS.items()},
        success="solved",
    )
    score = rubric.score(evidence(answer(call("stay", city="Oslo", nights=3), think="w " * 256)))
    assert score.parts == {
        "solved": 0.0,
        "format": 1.0,
        "correctness": pytest.approx(1.5),
        "length": 0.5,
    }
    assert score.reward == pytest.approx(3.0)
    assert rubric.score(evidence(CALL)).success


def test_solved_wants_format_and_calls():
    two = answer(STAY, call("leave"))
    assert toolrl_solved(evidence(answer(call("leave"), STAY), truth=two)) == 1.0  # in any order
    assert toolrl_solved(evidence(f"{CALL}.")) == 0.0
    assert toolrl_solved(evidence(answer(STAY, STAY))) == 0.0
    assert toolrl_solved(evidence(answer(response="other words"), truth=RESPONSE)) == 1.0


def test_the_last_answer_is_judged_and_nothing_without_one_or_without_a_truth():
    assert toolrl_correctness(evidence("first", CALL)) == 3.0
    for part in [*PARTS.values(), toolrl_solved]:
        assert part(evidence()) is None
        assert part(evidence(CALL, truth=None)) is None


def test_a_transcript_is_cut_where_the_template_is_named():
    text = f"<|im_start|>assistant\n{CALL}<|im_end|>"
    assert toolrl_format(evidence(text), template="qwen") == 1.0
    assert toolrl_format(evidence(text)) == 0.0


@pytest.mark.parametrize("truth", [{"name": "f"}, "<tool_call>\n{\n</tool_call>"])
def test_a_truth_that_cannot_be_read_voids_the_episode_and_makes_up_no_reward(truth):
    with pytest.raises(WorldFailure, match="part 'solved': UsageError"):
        Rubric.of({"solved": (toolrl_correctness, 1.0)}, "solved").score(
            evidence(CALL, truth=truth)
        )
