"""`envgym bench`: dialogue lengths like the oracle's, timings that add up, and the advice."""

import json
from dataclasses import replace

import pytest

from envgym.commands import main
from envgym_trainer.commands.bench.report import CostReport, StepCost, advice
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.optimizer import OptimizerConfig
from envgym_trainer.config.rollout import RolloutConfig

SMALL = [
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=4",
    "train.warm_start.episodes=4",
    "train.evaluation.tasks=4",
    "--steps",
    "1",
    "--json",
]
SLOW = """
import time

def guess(db, number: int) -> str:
    '''Guess the number

    Args:
        number: a whole number.
    '''
    time.sleep(0.5)
    hidden = db.execute("SELECT number FROM secret").fetchone()[0]
    db.execute("INSERT INTO guesses (number) VALUES (?)", (number,))
    return "correct" if number == hidden else "higher" if hidden > number else "lower"
"""


def bench(capsys, env, *settings):
    assert main(["bench", env, *SMALL, *settings]) == 0
    return json.loads(capsys.readouterr().out)


def test_dialogues_are_as_long_as_the_oracles_and_the_time_adds_up(capsys):
    report = bench(capsys, "guess", "train.steps=3")
    step = report["step"]
    assert 2 * 5 <= step["sampled_tokens"] <= 5 * 8  # one to four guesses and the final message
    assert step["prompt_tokens"] > 40
    assert 0 < step["computed_share"] < 1  # a group's prompt is computed once
    assert 0 < step["trained_share"] < 1
    steps = 3 * (step["sampling_seconds"] + step["training_seconds"])
    demos = report["warmup_step_seconds"]
    assert report["run_seconds"] == pytest.approx(
        steps + demos + 12 * report["eval_episode_seconds"]
    )


def test_slow_tools_are_found_and_more_dialogues_at_once_advised(capsys, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    report = bench(capsys, "guess", f"tools=[{tmp_path}/slow.py]")
    assert report["step"]["idle_share"] > 0.1
    assert "waits for tools" in report["advice"][0]


def test_without_an_oracle_every_turn_takes_its_limit(capsys, tmp_path):
    (tmp_path / "letters.yaml").write_text(
        "id: test/letters-v0\ngym: tests.fakes.letters_env:Letters-v0\ntasks: {val: 2, test: 3}\n"
    )
    report = bench(
        capsys,
        str(tmp_path / "letters.yaml"),
        "train.model=tiny",
        "train.rollout.max_turn_tokens=5",
        "train.warm_start.episodes=0",
    )
    assert report["step"]["sampled_tokens"] == 2 * 5


def test_the_command_prints_a_table_for_people(capsys):
    assert main(["bench", "guess", *SMALL[:-1]]) == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("a GRPO step", "sampling", "training", "the whole run", "memory")
    )


def test_no_steps_measure_nothing(capsys):
    assert main(["bench", "guess", "--steps", "0"]) == 2
    assert "--steps must be at least 1" in capsys.readouterr().err


def test_advice_names_the_setting_and_the_number_that_says_so():
    calm = StepCost(
        5.0,
        0.0,
        5.0,
        prompt_tokens=100,
        sampled_tokens=100,
        other_tokens=0,
        computed_share=0.5,
        trained_share=0.5,
    )
    report = CostReport(calm, 1.0, 0.1, run_seconds=100.0, peak_mb=100.0)
    plain = TrainConfig()
    told = lambda config=plain, evaluations=0.0, **change: advice(
        config, replace(report, step=replace(calm, **change)), evaluations=evaluations
    )
    assert told() == []
    assert (
        "only 8 of a step's 32 episodes run at once: train.rollout.max_concurrent_episodes=32"
        in told(TrainConfig(rollout=RolloutConfig(max_concurrent_episodes=8)))[0]
    )
    assert (
        "raise train.rollout.max_concurrent_episodes"
        in told(TrainConfig(rollout=RolloutConfig(max_concurrent_episodes=8)), idle_share=0.4)[0]
    )
    assert (
        "prompts have 900 tokens for 100 sampled"
        in told(prompt_tokens=900, sampling_seconds=9.0)[0]
    )
    assert "evaluations take 50% of the run" in told(evaluations=50.0)[0]
    assert (
        "a lower train.optimizer.updates_per_step"
        in told(
            TrainConfig(optimizer=OptimizerConfig(updates_per_step=4)),
            sampling_seconds=1.0,
            trained_share=0.9,
        )[0]
    )
