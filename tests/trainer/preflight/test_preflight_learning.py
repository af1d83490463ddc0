"""Preflight estimates memory, tests if rewards differ, and reports to the user."""

import dataclasses
import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from envgym.episode import Episode, Failure
from envgym.policies import TokenTrace
from envgym_trainer.config import merged
from envgym_trainer.preflight import (
    PreflightFailed,
    learning,
    memory,
)
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.trainer.preflight.contexts import TINY, opened


@pytest.fixture(scope="module")
def guess():
    with opened("guess") as subject:
        yield subject


@pytest.fixture
def anew(guess):
    """The sound subject under other settings: `anew(lora={"dropout": 0.1})`."""

    def change(chat=None, groups=(), **settings):
        config = type(guess.config).model_validate(merged(guess.config.model_dump(), settings))
        return dataclasses.replace(
            guess, config=config, chat=chat or guess.chat, groups=list(groups)
        )

    return change


def episode(reward, *, failure=None, success=None):
    trace = TokenTrace((1, 2), (False, True), (0.0, -0.5))
    return Episode(
        "e",
        "t",
        "train",
        "",
        "",
        0,
        (),
        trace,
        reward,
        success=success,
        failure=failure,
        dialects={"none": 1},
    )


@pytest.mark.parametrize(
    ("free", "passed", "warning"),
    [(2**20, False, False), (2**30, True, True), (2**40, True, False)],
)
def test_a_machine_too_small_is_found_and_one_that_may_be_too_small_is_a_warning(
    anew, monkeypatch, free, passed, warning
):
    monkeypatch.setattr(memory, "available_bytes", lambda model: free)
    result = memory.memory(
        anew(optimizer={"micro_batch_tokens": 10**6})
    )  # 55 KB of activations each
    assert (result.passed, result.warning) == (passed, warning)
    assert ("train.optimizer.micro_batch_tokens" in result.detail) == (not passed or warning)


def test_the_estimate_of_memory_is_added_up_by_hand():
    sizes = memory.Sizes(
        layers=2,
        hidden=8,
        intermediate=16,
        vocabulary=100,
        kv_bytes_a_token=64,
        dtype_bytes=4,
        adapter_numbers=10,
        copied_bytes=40,
    )
    found = memory.estimate(sizes, train_tokens=5, sampled_tokens=3)
    assert found["activations"] == pytest.approx(
        1.25 * 5 * (2 * (5 * 8 + 2 * 16) * 4 + 64 + 4 * (12 * 8 + 4 * 16))
    )
    assert (
        found["adapter, gradient, Adam"],
        found["keys and values"],
        found["sampler's weights"],
    ) == (160, 192, 40)
    assert memory.at_once(found) == 160 + found["activations"] + found["logits"]
    assert memory.at_once(found, one_step_ahead=True) == sum(found.values())
    assert (
        memory.at_once(found | {"keys and values": 10**9}) == 160 + 10**9 + 40
    )  # the sampler sleeps while the learner works


def test_a_containers_limit_counts_and_its_file_pages_are_free(tmp_path):
    for name, text in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 600\nfile 100\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory._free_in_group(tmp_path) == 400
    assert memory._free_in_group(tmp_path / "none") == float("inf")


def test_a_model_whose_rewards_are_all_alike_is_refused_unless_a_warm_start_comes_first(anew):
    groups = [[episode(0.0), episode(0.0)]] * learning.GROUPS
    alone = learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=groups))
    assert not alone.passed
    assert "all 16 episodes of 8 groups have the reward 0" in alone.detail
    for remedy in ("train.warm_start.episodes=64", "train.tasks.levels", "curriculum"):
        assert remedy in alone.detail
    assert learning.rewards_differ(anew(groups=groups)).passed


def test_one_group_that_differs_is_enough_and_differences_between_groups_are_not(anew):
    assert learning.rewards_differ(
        anew(warm_start={"episodes": 0}, groups=[[episode(0.0), episode(1.0)]])
    ).passed
    between = [[episode(float(n % 2))] * 2 for n in range(learning.GROUPS)]
    assert not learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=between)).passed


def test_a_model_that_solves_everything_is_told_to_go_where_it_is_harder(anew):
    groups = [[episode(1.0, success=True)] * 2] * learning.GROUPS
    result = learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=groups))
    assert not result.passed
    assert "were solved, so there is no gradient" in result.detail


def test_a_model_that_makes_no_call_is_a_warning_and_one_whose_episodes_break_is_refused(
    anew, monkeypatch
):
    subject = anew(warm_start={"episodes": 0})
    monkeypatch.setattr(type(subject), "play_groups", lambda self, count, size: [[episode(0.0)]])
    result = learning.model(subject)
    assert (result.passed, result.warning) == (True, True)
    assert "0 of 1 turns were parsed as a tool call" in result.detail
    assert "train.warm_start.episodes" in result.detail
    void = episode(None, failure=Failure("policy_failed", "policy", "no memory"))
    monkeypatch.setattr(type(subject), "play_groups", lambda self, count, size: [[void]])
    assert not learning.model(subject).passed


def test_dropout_is_said_aloud(anew):
    assert not learning.adapter(anew()).warning
    result = learning.adapter(anew(lora={"dropout": 0.1}))
    assert (result.passed, result.warning) == (True, True)
    assert "Set train.lora.dropout=0" in result.detail


RUN = [
    *TINY,
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.warm_start.episodes_per_step=4",
    "train.evaluation.tasks=2",
]


def test_a_run_that_cannot_learn_is_refused_before_it_starts_and_leaves_nothing(tmp_path):
    with pytest.raises(
        PreflightFailed,
        match=(
            r"(?s)this run cannot learn:.*rewards_differ: all 16 "
            r"episodes.*train\.checks\.preflight=off"
        ),
    ):
        start("guess", [*RUN, "train.warm_start.episodes=0"], out=tmp_path, name=None, resume=None)
    assert list(tmp_path.iterdir()) == []
    settings = [
        *RUN,
        "train.warm_start.episodes=0",
        "train.checks.preflight=off",
        "train.evaluation.base_tasks=0",
    ]
    assert start("guess", settings, out=tmp_path, name=None, resume=None) == 0
    assert not (tmp_path / "guess" / "preflight.json").exists()


def test_a_sound_run_says_so_in_one_line_and_keeps_the_results(tmp_path, capsys):
    assert (
        start(
            "guess",
            [*RUN, "train.lora.dropout=0.1", "train.evaluation.base_tasks=0"],
            out=tmp_path,
            name=None,
            resume=None,
        )
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "preflight: 12 checks passed in" in said
    assert "warning: adapter:" in said
    kept = json.loads((RunFolder.open(tmp_path / "guess").path / "preflight.json").read_text())
    assert len(kept) == 12
    assert all(result["passed"] for result in kept)


@pytest.fixture
def command(monkeypatch):
    """`envgym ...` with the commands that pyproject.toml declares, whatever is installed here."""
    from importlib import metadata

    from envgym.commands import main

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]
    points = {
        group: [EntryPoint(name, value, group) for name, value in names.items()]
        for group, names in declared.items()
    }
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points.get(group, []))
    return lambda *words: main(list(words))


def test_preflight_prints_a_table_and_exits_like_envgym_check(command, capsys):
    assert command("preflight", "guess", *TINY, "--fast", "--prompt") == 0
    said = capsys.readouterr().out
    assert "12 of 12 checks passed" in said
    assert "<|im_start|>assistant" in said
    assert (
        command("preflight", "guess", *TINY, "train.rollout.max_turn_tokens=3", "--fast", "--json")
        == 1
    )
    told = json.loads(capsys.readouterr().out)
    assert [check["id"] for check in told["checks"] if not check["passed"]] == ["context"]
    assert command("preflight", "guess", "train.lora.rank=5") == 2


def test_the_help_of_preflight_shows_a_real_example(command, capsys):
    with pytest.raises(SystemExit):
        command("preflight", "--help")
    assert "envgym preflight envs/crm.yaml" in capsys.readouterr().out
