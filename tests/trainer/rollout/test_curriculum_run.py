"""Curricula, dynamic sampling and void members in real runs of `envgym train guess`."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from envgym.episode import Failure
from envgym.errors import SpecError
from envgym_trainer.rollout import collector as rollouts
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import evaluation
from envgym_trainer.training.interrupt import StopRequested
from envgym_trainer.training.launch import start

LEVELS = """\
from envgym import Draw, ToolCall, template

def ask(draw: Draw):
    return draw.task(prompt="Find it.", oracle=[ToolCall("guess", {"number": 8})] * 3)

@template(level="L0")
def rest(draw: Draw):
    return ask(draw)

@template(level="L0", splits=("train",))
def pause(draw: Draw):
    return ask(draw)

@template(level="L1")
def hunt(draw: Draw):
    return ask(draw)

@template(level="L2")
def chase(draw: Draw):
    return ask(draw)

def easy(evidence):
    return float(evidence.task.level == "L0")  # the other levels are never solved
"""
SMALL = [
    "train.checks.preflight=off",
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=4",
    "train.warm_start.episodes_per_step=4",
    "train.steps=4",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=3",
    "train.evaluation.tasks=2",
    "train.evaluation.base_tasks=0",
    "train.rollout.max_turn_tokens=6",
    "train.output.checkpoint_every_steps=1",
    "train.evaluation.validate_every_steps=1",
    "train.evaluation.validation_tasks=3",
    "train.rollout.max_concurrent_episodes=16",
]
CURRICULUM = [
    (
        "train.tasks={adaptive: true, min_weight: 0.2, pass_rate_decay: 0.5, unlock_at: 0.9, "
        "horizon: {start_turns: 1, end_turns: 4, over_steps: 3}}"
    ),
    "train.rollout.max_extra_groups=3",
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    file = tmp_path_factory.mktemp("tasks") / "levels.py"
    file.write_text(LEVELS)
    return [
        f"tasks={{from: {file}, val: 3, test: 3}}",
        f"reward={{easy: {{from: {file}:easy}}}}",
        "success=easy",
    ]


def train(out, *settings, resume=None, code=0):
    assert start("guess", [*SMALL, *settings], out=out, name="r", resume=resume) == code
    return RunFolder.open(out / "r")


@pytest.fixture(scope="module")
def finished(tasks, tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs"), *tasks, *CURRICULUM)


def grpo_lines(folder):
    return [line for line in folder.metrics() if line["phase"] == "grpo"]


def raw_episodes(folder):
    lines = [json.loads(line) for line in folder.episodes_file.read_text().splitlines()]
    return [line for line in lines if line["phase"] == "grpo"]


def adapter_of(folder):
    return load_file(folder.adapter / "adapter_model.safetensors")


def test_levels_open_on_validation_and_are_drawn_from_then_on(finished):
    # L0 is always solved, L1 never
    assert [line["curriculum/unlocked"] for line in grpo_lines(finished)] == [
        1,
        2,
        2,
        2,
    ]
    drawn = {
        step: {e["level"] for e in raw_episodes(finished) if e["step"] == step}
        for step in (2, 3, 4, 5)
    }
    assert drawn[2] == {"L0"}
    assert set.union(*drawn.values()) == {"L0", "L1"}


def test_weights_and_rates_are_in_every_line_and_in_tensorboard(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for line in grpo_lines(finished):
        weights = {
            name: value
            for name, value in line.items()
            if name.startswith("curriculum/draw_probability/")
        }
        assert set(weights) == {
            f"curriculum/draw_probability/{name}" for name in ("rest", "pause", "hunt", "chase")
        }
        assert sum(weights.values()) == pytest.approx(1)
        assert weights["curriculum/draw_probability/chase"] == 0
    last = grpo_lines(finished)[-1]
    assert last["curriculum/level_pass_rate/L0"] > 0.7
    scalars = EventAccumulator(str(finished.path)).Reload().Tags()["scalars"]
    assert {
        "curriculum/draw_probability/hunt",
        "curriculum/unlocked",
        "curriculum/max_turns",
        "rollout/extra_groups",
    } <= set(scalars)


def test_the_opening_of_a_level_is_told_in_the_terminal(tasks, tmp_path, capsys):
    train(tmp_path, *tasks, "train.tasks={unlock_at: 0.9}", "train.steps=2")
    said = capsys.readouterr().out
    assert "curriculum: level L1 is open, after 100% of validation tasks of L0" in said
    assert "level L2" not in said


def test_groups_that_agree_are_replaced_up_to_the_cap_and_what_that_cost_is_kept(finished):
    for line in grpo_lines(finished):
        # here all rewards are equal
        assert (line["rollout/extra_groups"], line["rollout/discarded_episodes"]) == (
            3,
            9,
        )
        assert line["episode/n"] == (2 + 3) * 3
        mine = [e.get("excluded") for e in raw_episodes(finished) if e["step"] == line["step"]]
        assert (mine.count(None), mine.count("no_variance")) == (6, 9)


def test_groups_with_nothing_to_learn_are_told_apart_by_level_and_by_template(finished):
    lines = grpo_lines(finished)
    assert all(
        line["group/frac_all_one/L0"] == 1 and line["group/frac_all_zero/L0"] == 0 for line in lines
    )
    hunted = [line for line in lines if "group/frac_all_zero/template/hunt" in line]
    assert hunted
    assert all(
        line["group/frac_all_zero/template/hunt"] == line["group/frac_all_zero/L1"] == 1
        for line in hunted
    )


def test_every_group_that_is_played_is_of_one_task_one_start_and_has_exactly_its_members(finished):
    for step in (2, 3, 4, 5):
        for kind in (None, "no_variance"):
            episodes = [
                e for e in raw_episodes(finished) if e["step"] == step and e.get("excluded") == kind
            ]
            groups = [episodes[n : n + 3] for n in range(0, len(episodes), 3)]
            assert len({group[0]["task_id"] for group in groups}) == len(groups) > 0
            for group in groups:
                assert len(group) == 3
                assert (
                    len(
                        {
                            (e["task_id"], e["start_hash"], e["messages"][1]["content"])
                            for e in group
                        }
                    )
                    == 1
                )
                assert all(e["start_hash"] for e in group)
                assert len({e["seed"] for e in group}) == 3


def test_the_horizon_grows_with_the_steps(finished):
    assert [line["curriculum/max_turns"] for line in grpo_lines(finished)] == [1, 2, 3, 4]
    assert all(e["turns"] <= e["step"] - 1 for e in raw_episodes(finished))


def test_an_episode_that_the_horizon_cuts_is_truncated_and_no_failure(tasks, tmp_path):
    demos = [
        "train.warm_start.episodes=48",
        "train.warm_start.episodes_per_step=8",
        "train.warm_start.learning_rate=0.01",
        "train.rollout.max_turn_tokens=8",
    ]
    limits = [
        "train.tasks={horizon: {start_turns: 2, end_turns: 6, over_steps: 1}}",
        "train.tasks.levels=[L1]",
        "train.steps=2",
        "train.evaluation.validate_every_steps=0",
    ]
    folder = train(tmp_path, *tasks, *demos, *limits)
    short, whole = ([e for e in raw_episodes(folder) if e["step"] == step] for step in (7, 8))
    assert {
        (e["turns"], e["stop_reason"], e["truncated"], e["terminated"], e["success"])
        for e in short
        if e["turns"] == 2
    } == {(2, "horizon", True, False, None)}
    assert max(e["turns"] for e in whole) > 2
    assert all(e["stop_reason"] != "horizon" and e["success"] is not None for e in whole)
    assert "stop/horizon" in grpo_lines(folder)[0]
    assert not any(name.startswith("failures/") for name in grpo_lines(folder)[0])


def test_a_resumed_run_draws_the_same_tasks_and_ends_the_same(finished, tasks, tmp_path):
    train(tmp_path, *tasks, *CURRICULUM, "train.steps=2")
    halves = train(tmp_path, *tasks, *CURRICULUM, resume=tmp_path / "r")
    told = lambda folder: [
        (e["step"], e["task_id"], e["seed"], e.get("excluded")) for e in raw_episodes(folder)
    ]
    assert told(halves) == told(finished)
    whole = adapter_of(finished)
    assert all(torch.equal(value, whole[name]) for name, value in adapter_of(halves).items())


def test_a_validation_that_was_interrupted_is_made_up_for_so_that_its_level_opens(
    finished, tasks, tmp_path, monkeypatch
):
    play_held_out = evaluation.play_held_out

    def stops_once(run, tasks, name):
        if name == "validation" and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise StopRequested
        return play_held_out(run, tasks, name)

    monkeypatch.setattr(evaluation, "play_held_out", stops_once)
    train(tmp_path, *tasks, *CURRICULUM, code=130)
    folder = train(tmp_path, *tasks, *CURRICULUM, resume=tmp_path / "r")
    assert [line["curriculum/unlocked"] for line in grpo_lines(folder)] == [1, 2, 2, 2]
    assert [e["task_id"] for e in raw_episodes(folder)] == [
        e["task_id"] for e in raw_episodes(finished)
    ]
    assert [line["step"] for line in folder.metrics() if "val/success" in line] == [2, 3, 4]


def test_a_curriculum_that_could_never_act_stops_the_run_at_its_start(tmp_path):
    with pytest.raises(
        SpecError, match=r"guess.yaml: train.tasks.unlock_at: needs two levels, found L0"
    ):
        train(tmp_path, "train.tasks={unlock_at: 0.5}")
    assert RunFolder.open(tmp_path / "r").metrics() == []


def with_breaking(monkeypatch, breaks):
    """Void the episodes for which `breaks(call, index)` is true."""
    play_many = rollouts.play_many
    calls = []

    def play(make_env, policy, requests, **more):
        episodes = play_many(make_env, policy, requests, **more)
        calls.append(list(requests))
        lost = Failure("sandbox_lost", "call", "gone")
        void = lambda e: dataclasses.replace(
            e, reward=None, success=None, failure=lost, stop_reason="void"
        )
        return [void(e) if breaks(len(calls) - 1, n) else e for n, e in enumerate(episodes)]

    monkeypatch.setattr(rollouts, "play_many", play)
    return calls


BARE = [
    "train.evaluation.validate_every_steps=0",
    "train.steps=1",
    "train.algorithm.kl.coef=1.0",
    "train.warm_start.learning_rate=0.01",
    "episode.max_void_fraction=1.0",
]


def test_a_lone_valid_member_pulls_nothing_even_with_a_kl_term(tmp_path, monkeypatch):
    # Calls: warm start, its evaluation, the groups, the retried void members. One valid member of
    # each group of three is left.
    with_breaking(monkeypatch, lambda call, n: (call in (2, 3) and n % 3 != 0) or call == 3)
    folder = train(tmp_path, *BARE)
    before, after = (
        torch.load(f / "learner.pt", weights_only=True)["adapter"] for _, f in folder.checkpoints()
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    [line] = grpo_lines(folder)
    assert (line["group/too_few_valid"], line["group/retried_members"], line["episode/void"]) == (
        2,
        4,
        4,
    )


def test_with_two_valid_members_the_kl_term_pulls(tmp_path, monkeypatch):
    with_breaking(monkeypatch, lambda call, n: (call == 2 and n % 3 == 2) or call == 3)
    folder = train(tmp_path, *BARE)
    before, after = (
        torch.load(f / "learner.pt", weights_only=True)["adapter"] for _, f in folder.checkpoints()
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert grpo_lines(folder)[0]["group/too_few_valid"] == 0


def test_a_void_member_is_played_again_and_the_group_is_whole(tmp_path, monkeypatch):
    calls = with_breaking(monkeypatch, lambda call, n: call == 2 and n == 1)
    folder = train(tmp_path, *BARE)
    assert [len(requests) for requests in calls] == [4, 2, 6, 1, 2]
    episodes = raw_episodes(folder)
    assert [e.get("excluded") for e in episodes] == [None] * 6 + ["retried"]
    assert not any(e["failure"] for e in episodes[:6])
    [line] = grpo_lines(folder)
    assert (
        line["failures/sandbox_lost"],
        line["episode/void"],
        line["group/retried_members"],
    ) == (1, 0, 1)
