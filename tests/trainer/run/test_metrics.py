import dataclasses

import pytest

from envgym.episode import Episode, Failure
from envgym.policies import TokenTrace
from envgym.terms import PENALTY, Term, total
from envgym_trainer.run.metrics import episode_metrics, eval_metrics


def episode(reward: float = 0.0, *, sampled: int = 2, level: str = "L0", **fields) -> Episode:
    trace = TokenTrace(
        (1,) * (3 + sampled), (False,) * 3 + (True,) * sampled, (0.0,) * (3 + sampled)
    )
    given = {
        "success": reward >= 1,
        "stop_reason": "answered",
        "turns": 1,
        "tool_calls": 1,
    } | fields
    return Episode("demo", "train/t/0", "train", level, "t", 0, (), trace, reward, **given)


def void() -> Episode:
    failure = Failure("sandbox_lost", "call", "gone")
    return Episode(
        "demo",
        "train/t/0",
        "train",
        "L0",
        "t",
        0,
        (),
        None,
        None,
        stop_reason="void",
        failure=failure,
    )


def test_reward_is_the_mean_and_its_deviation_that_inside_the_groups():
    metrics = episode_metrics([[episode(0.0), episode(1.0)], [episode(1.0), episode(1.0)]])
    assert metrics["reward"] == 0.75
    # sample deviations: sqrt(0.5) and 0
    assert metrics["reward_std"] == pytest.approx(0.5**0.5 / 2)
    assert metrics["frac_reward_zero_std"] == 0.5


def test_groups_that_all_fail_or_all_succeed_are_counted():
    metrics = episode_metrics(
        [[episode(0.0)] * 2, [episode(1.0)] * 2, [episode(0.0), episode(1.0)], [episode(1.0)] * 2]
    )
    assert (metrics["group/frac_all_zero"], metrics["group/frac_all_one"]) == (0.25, 0.5)


def test_groups_that_agree_are_told_by_level_and_by_template():
    other = dataclasses.replace(episode(1.0, level="L1"), template="u")
    groups = [[episode(0.0)] * 2, [episode(0.0), episode(1.0)], [other] * 2, [episode(0.0), void()]]
    metrics = episode_metrics(groups)
    zero = {
        name: value for name, value in metrics.items() if name.startswith("group/frac_all_zero")
    }
    assert {name.removeprefix("group/frac_all_zero"): value for name, value in zero.items()} == {
        "": pytest.approx(1 / 3),
        "/L0": 0.5,
        "/L1": 0.0,
        "/template/t": 0.5,
        "/template/u": 0.0,
    }
    assert (
        metrics["group/frac_all_one"],
        metrics["group/frac_all_one/L0"],
        metrics["group/frac_all_one/L1"],
    ) == (
        pytest.approx(1 / 3),
        0.0,
        1.0,
    )


def test_a_void_member_is_counted_and_left_out_of_every_mean():
    metrics = episode_metrics([[episode(1.0), void()], [episode(0.0), episode(1.0)]])
    assert (metrics["episode/void"], metrics["episode/n"]) == (1, 3)
    assert metrics["reward"] == pytest.approx(2 / 3)
    # the first group has one valid member left and is not counted
    assert metrics["frac_reward_zero_std"] == 0.0
    assert "stop/void" not in metrics


def test_a_step_of_nothing_but_void_episodes_has_no_reward():
    metrics = episode_metrics([[void(), void()]])
    assert (metrics["episode/n"], metrics["episode/void"], metrics["group/void_members"]) == (
        0,
        2,
        1.0,
    )
    assert "reward" not in metrics


def test_failures_are_counted_by_kind_and_stage_with_those_of_first_attempts():
    crash = Failure("tool_crashed", "call", "1 / 0")
    saved = episode(1.0, retried_failure=crash)
    lost = dataclasses.replace(void(), retried_failure=crash)
    metrics = episode_metrics([[saved, lost], [episode(0.0), episode(1.0)]])
    assert (
        metrics["failures/tool_crashed"],
        metrics["failures/sandbox_lost"],
        metrics["failures/stage/call"],
    ) == (2, 1, 3)
    assert (metrics["episode/retried"], metrics["episode/void"], metrics["episode/n"]) == (2, 1, 3)
    assert metrics["group/void_members"] == 0.25  # half of the first group, none of the second
    evaluated = eval_metrics([saved, lost])
    assert (evaluated["eval/failures/tool_crashed"], evaluated["eval/episode/retried"]) == (2, 2)


def test_success_is_reported_by_level():
    metrics = episode_metrics(
        [[episode(1.0), episode(0.0, level="L1")], [episode(1.0), episode(1.0, level="L1")]]
    )
    assert (metrics["success"], metrics["success/level/L0"], metrics["success/level/L1"]) == (
        0.75,
        1.0,
        0.5,
    )


def test_success_is_left_out_where_the_environment_does_not_know_it():
    metrics = episode_metrics([[episode(0.3, success=None), episode(0.5, success=None)]])
    assert "success" not in metrics
    assert "group/frac_all_zero" not in metrics
    assert metrics["reward"] == pytest.approx(0.4)


def test_a_part_that_did_not_apply_is_no_zero():
    group = [
        episode(reward_parts={"solved": 1.0}),
        episode(reward_parts={"solved": None}),
        episode(reward_parts={"solved": 0.0}),
    ]
    metrics = episode_metrics([group])
    assert metrics["rewards/solved/mean"] == 0.5
    assert metrics["rewards/solved/std"] == pytest.approx(0.5**0.5)


def test_contributions_are_in_units_of_reward_and_sum_to_it():
    one = {
        "solved": Term(1.0, 1.0, 2.0),
        "brief": Term(0.5, 0.5, -1.0),
        "watched": Term(9.0, 9.0, 0.0),
    }
    other = {
        "solved": Term(0.0, 0.0, 2.0),
        "brief": Term(None, None, -1.0),
        PENALTY: Term(1.0, -0.5, 1.0),
    }
    group = [episode(total(terms), reward_terms=terms) for terms in (one, other)] + [void()]
    metrics = episode_metrics([group])
    found = {name: value for name, value in metrics.items() if name.endswith("/contribution")}
    assert found == {
        "rewards/solved/contribution": 1.0,
        "rewards/brief/contribution": -0.25,
        "rewards/penalty/contribution": -0.25,
    }
    assert sum(found.values()) == metrics["reward"] == 0.5
    # without terms there are no shares
    assert not [
        name for name in episode_metrics([[episode(1.0)]]) if name.endswith("/contribution")
    ]


def test_lengths_count_sampled_tokens_and_no_given_ones():
    whole = episode(sampled=2, turn_stops=("length", "stop"))
    cut = episode(sampled=6, turn_stops=("stop", "length"))
    metrics = episode_metrics([[whole, cut]])
    assert [metrics[f"completions/{kind}_length"] for kind in ("mean", "min", "max")] == [4, 2, 6]
    assert metrics["completions/clipped_ratio"] == 0.5
    assert metrics["completions/clipped_answers"] == 0.5  # two of four answers
    full = episode(stop_reason="context", turn_stops=("stop",))
    assert episode_metrics([[full, whole]])["completions/clipped_ratio"] == 0.5


def test_tool_failures_are_a_share_of_calls_not_of_episodes():
    metrics = episode_metrics([[episode(tool_calls=3, tool_errors=1), episode(tool_calls=1)]])
    assert (metrics["tools/call_frequency"], metrics["tools/failure_frequency"]) == (2.0, 0.25)


def test_dialects_and_stop_reasons_are_shares_that_add_up_to_one():
    group = [
        episode(dialects={"hermes": 3}),
        episode(dialects={"invalid": 1}, stop_reason="max_turns"),
    ]
    metrics = episode_metrics([group])
    assert (metrics["dialect/hermes"], metrics["dialect/invalid"]) == (0.75, 0.25)
    assert (metrics["stop/answered"], metrics["stop/max_turns"]) == (0.5, 0.5)


def test_an_evaluation_gives_counts_by_level_and_nothing_about_groups():
    metrics = eval_metrics([episode(1.0), episode(0.0), episode(1.0, level="L1"), void()])
    assert (metrics["eval/n"], metrics["eval/n/level/L0"], metrics["eval/n/level/L1"]) == (3, 2, 1)
    assert (metrics["eval/success/level/L0"], metrics["eval/success/level/L1"]) == (0.5, 1.0)
    assert not [
        name
        for name in metrics
        if "group" in name or name.endswith("zero_std") or name == "eval/reward_std"
    ]
